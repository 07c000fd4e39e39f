"""The endpoint for assistants: the page's and the API's functions as tools of the Model Context Protocol, at /mcp."""

import asyncio
import base64
import json
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field, ValidationError
from starlette.applications import Starlette

from p2pz_ray.errors import P2PZError
from p2pz_ray.serving.web.body import EditRequest
from p2pz_ray.serving.web.bulk import Bulk
from p2pz_ray.serving.web.prompt import read
from p2pz_ray.serving.web.refusal import RefusalError
from p2pz_ray.serving.web.request import parse_body
from p2pz_ray.serving.web.service import Service
from p2pz_ray.version import __version__

ABOUT = (
    "Edits pictures: one thing becomes another and the rest stays as it is. Call list_edits first to see the edits; "
    "edit_image takes the name of an edit or, where any two words are allowed, 'cat to dog'."
)


def build_assistants(service: Service) -> tuple[MCPServer, Starlette]:
    """The MCP server, whose sessions the caller runs, and the application with its routes."""
    offer, server = service.offer, MCPServer("p2pz_ray", instructions=ABOUT, version=__version__, log_level="ERROR")

    @server.tool(structured_output=False)
    async def list_edits() -> str:
        """The named edits, the models that make them, and whether edits between any two words are allowed."""
        edits = {"edits": service.edits(), "any_two_words": offer.config.words.allowed}
        return json.dumps(edits | {"models": await service.models()}, ensure_ascii=False)

    @server.tool(structured_output=False)
    async def edit_image(
        image: Annotated[str, Field(description="The picture's file (PNG, JPEG, WebP …) in base64. No URLs.")],
        edit: Annotated[str, Field(description="An edit's name, or 'cat to dog', or 'add glasses'.")],
        strength: Annotated[float | None, Field(description="How far to go; 1 is the edit itself.")] = None,
        seed: int = 0,
        caption: Annotated[str | None, Field(description="What the picture shows.")] = None,
        mask: Annotated[str | None, Field(description="Base64: white where the edit may go.")] = None,
        model: str | None = None,
    ) -> list[Any]:
        """Edit a picture; answers with the edited picture and the model that made it."""
        try:
            choice = read(edit, offer.edits, offer.config.words.allowed)
            if choice is None:
                raise ToolError(f"{edit[:80]!r} names no edit: call list_edits to see the edits.")
            part = {"edit": choice} if isinstance(choice, str) else {"source": choice[0], "target": choice[1]}
            request = EditRequest.model_validate(
                {
                    "image": image,
                    "edits": [{**part, "strength": strength}],
                    "seed": seed,
                    "caption": caption,
                    "mask": mask,
                    "model": model,
                }
            )
            answer = await service.edit(await asyncio.to_thread(parse_body, request, offer))
        except RefusalError as refusal:
            raise ToolError(refusal.message) from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ToolError(f"{first['loc'][-1]} is wrong: {first['msg']}.") from None
        [edited] = answer["data"]
        picture = base64.b64decode(edited.pop("b64_json"))
        facts = {"model": answer["model"], **edited, "cost": answer["cost"]}
        return [Image(data=picture, format="png"), json.dumps(facts, ensure_ascii=False)]

    @server.tool(structured_output=False)
    async def make_direction(source: str, target: str) -> str:
        """Prepare the edit between two words; answers with the name to give edit_image."""
        try:
            words = service.words(*(" ".join(word.split()) for word in (source, target)))
            return json.dumps(await service.make_direction(*words), ensure_ascii=False)
        except RefusalError as refusal:
            raise ToolError(refusal.message) from None

    if offer.config.bulk is not None:
        bulk = Bulk(offer.config)

        @server.tool(structured_output=False)
        async def submit_collection(
            collection: Annotated[str, Field(description="The collection's name below the service's input folder.")],
            edit: Annotated[str, Field(description="An edit's name, or two words: 'cat to dog'.")],
            run: Annotated[str, Field(description="A new name for the run.")],
        ) -> str:
            """Send a whole collection to the cluster; answers with the job's id. run_status shows its progress."""
            choice = read(edit, offer.edits, offer.config.words.allowed)
            if choice is None:
                raise ToolError(f"{edit[:80]!r} names no edit: call list_edits to see the edits.")
            try:
                return json.dumps(await asyncio.to_thread(bulk.submit, collection, choice, run))
            except P2PZError as error:
                raise ToolError(str(error)) from None

        @server.tool(structured_output=False)
        async def run_status(run: str) -> str:
            """The progress of a run."""
            try:
                return await asyncio.to_thread(bulk.status, run)
            except P2PZError as error:
                raise ToolError(str(error)) from None

    # The guard checks hosts and origins for all routes.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(
        stateless_http=True,
        json_response=True,
        transport_security=security,
        max_request_body_size=offer.config.limits.body,
    )
    return server, app
