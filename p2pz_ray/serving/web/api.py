"""The routes: the page, the two forms of the API, and the health check."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from p2pz_ray.mini.scene import KINDS
from p2pz_ray.serving.web.assistants import build_assistants
from p2pz_ray.serving.web.body import EditRequest
from p2pz_ray.serving.web.documentation import documentation
from p2pz_ray.serving.web.guard import Guard
from p2pz_ray.serving.web.page import POLICY, page
from p2pz_ray.serving.web.refusal import RefusalError
from p2pz_ray.serving.web.request import Form, parse_body, parse_form
from p2pz_ray.serving.web.scenes import scene
from p2pz_ray.serving.web.service import Service, to_base64
from p2pz_ray.version import __version__

FILES, FIELDS = 4, 40
FORM = {
    "image": ("binary", "The picture: a file."),
    "prompt": ("string", "'cat to dog', 'add glasses', or the name of an edit that GET /v1/edits lists."),
    "mask": ("binary", "A picture that is transparent where the edit may go."),
    "model": ("string", "A model that GET /v1/models lists; by default the diffusion model."),
    "n": ("integer", "How many pictures, each with its own seed."),
    "size": ("string", "The size of the answers, WIDTHxHEIGHT, or auto."),
    "strength": ("number", "How far to go; 1 is the edit itself."),
    "seed": ("integer", "The seed of the first picture; the following pictures have the following seeds."),
    "num_inference_steps": ("integer", ""),
    "guidance_scale": ("number", ""),
    "negative_prompt": ("string", ""),
    "caption": ("string", "What the picture shows."),
    "output_format": ("string", "png, jpeg or webp."),
    "response_format": ("string", "b64_json, the only one."),
}


def build_app(service: Service) -> FastAPI:
    """The application of one service."""
    offer = service.offer
    server, assistants = build_assistants(service)

    @asynccontextmanager
    async def sessions(_: FastAPI) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    app = FastAPI(
        title="p2pz serve", version=__version__, description="Edits by pix2pix-zero and its students.",
        docs_url=None, redoc_url=None, lifespan=sessions,
    )  # fmt: skip
    app.add_middleware(Guard, offer=offer)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)

    @app.get("/", summary="The page", response_class=HTMLResponse)
    async def index(request: Request) -> HTMLResponse:
        return HTMLResponse(page(request.scope.get("root_path", "")), headers={"Content-Security-Policy": POLICY})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(documentation(app.openapi()), headers={"Content-Security-Policy": POLICY})

    @app.get("/healthz", summary="Answers when the model is loaded")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "model": offer.model, **await service.facts()}

    @app.get("/v1/models", summary="The models that make edits")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": await service.models()}

    @app.get("/v1/edits", summary="The edits that have a name")
    async def edits() -> dict[str, Any]:
        config = offer.config
        return {
            "object": "list",
            "data": service.edits(),
            "words": config.words.allowed,
            "scenes": list(KINDS) if offer.scenes else None,
            "fit": config.image.fit,
            "limits": {"pictures": config.limits.pictures, "steps": config.limits.steps, "body": config.limits.body},
        }

    @app.post("/v1/edits", summary="Edits of one picture, with all settings", response_model=None)
    async def edit(body: EditRequest) -> Response:
        parsed = await asyncio.to_thread(parse_body, body, offer)
        if not body.stream:
            return JSONResponse(await service.edit(parsed))
        return StreamingResponse(_events(service.events(parsed)), media_type="text/event-stream")

    @app.post(
        "/v1/images/edits",
        summary="Edits of one picture, in the form that OpenAI's clients send",
        openapi_extra={"requestBody": _form_schema()},
        response_model=None,
    )
    async def image_edit(request: Request) -> Response:
        parsed = await asyncio.to_thread(parse_form, await _form(request), offer)
        return JSONResponse(await service.edit(parsed))

    @app.post("/v1/directions", summary="Make the direction between two words ready")
    async def directions(body: dict[str, str]) -> dict[str, Any]:
        source, target = (" ".join(body.get(key, "").split()) for key in ("source", "target"))
        return await service.make_direction(*service.words(source, target))

    if offer.scenes:

        @app.get("/v1/scene", summary="A scene of the miniature's world, to try edits with")
        async def draw(kind: str = "cat", seed: Annotated[int, Query(ge=0, lt=2**63)] = 0) -> dict[str, Any]:
            pixels, caption = await asyncio.to_thread(scene, kind, seed, offer.size[0])
            return {"b64_json": to_base64(pixels), "caption": caption}

    app.router.routes.extend(assistants.routes)
    return app


async def _form(request: Request) -> Form:
    """The form of a request. Raises RefusalError where the body is no such form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise RefusalError(415, f"The body's type is {kind[:80] or 'missing'}: send multipart/form-data.")
    try:
        form = await request.form(max_files=FILES, max_fields=FIELDS)
    except HTTPException as error:
        raise RefusalError(400, f"The form can't be read: {str(error.detail).rstrip('.')}.") from None
    except Exception as error:  # the parser raises many kinds of exception for a damaged form
        raise RefusalError(400, f"The form can't be read ({type(error).__name__}).") from error
    images = [value for key in ("image", "image[]") for value in form.getlist(key)]
    if len(images) != 1 or not isinstance(images[0], UploadFile):
        raise RefusalError(400, f"The form has {len(images)} images: send one, as a file named image.", "image")
    prompt = form.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise RefusalError(400, "The form has no prompt: say which edit, such as 'cat to dog'.", "prompt")
    return Form(await images[0].read(), prompt, await _file(form, "mask"), _fields(form))


async def _file(form: FormData, key: str) -> bytes | None:
    value = form.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, UploadFile):
        raise RefusalError(400, f"{key} is not a file: send a picture.", key)
    return await value.read()


def _fields(form: FormData) -> dict[str, str]:
    return {key: value for key, value in form.multi_items() if isinstance(value, str)}


def _form_schema() -> dict[str, Any]:
    properties = {}
    for key, (kind, description) in FORM.items():
        kinds = {"type": "string", "format": "binary"} if kind == "binary" else {"type": kind}
        properties[key] = {**kinds, "description": description}
    schema = {"type": "object", "required": ["image", "prompt"], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


async def _events(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncIterator[str]:
    async for name, data in events:
        yield f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    [first, *_] = error.errors()
    key = ".".join(str(part) for part in first["loc"][1:] if not str(part).startswith(("constrained", "EditBody")))
    if first["type"] == "json_invalid":
        return RefusalError(400, "The body is not valid JSON.").response()
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    sentence = f"{key or 'The body'} is wrong: {reason[:1].lower()}{reason[1:].rstrip('.')}."
    return RefusalError(422, sentence, key or None).response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "There is nothing at this path.", 405: "This path doesn't take that method."}
    return RefusalError(error.status_code, messages.get(error.status_code, str(error.detail))).response()
