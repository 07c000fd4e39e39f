"""The assistants' endpoint: what the page and the API do, as tools of the Model Context Protocol at /mcp."""

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

from p2pz_ray import __version__
from p2pz_ray.errors import P2PZError
from p2pz_ray.serving.bulk import Bulk
from p2pz_ray.serving.prompt import read
from p2pz_ray.serving.refusal import RefusalError
from p2pz_ray.serving.request import EditRequest, asked
from p2pz_ray.serving.service import Service

ABOUT = (
    "Edits pictures: one thing becomes another and all else stays as it is. Ask list_edits first for what is offered; "
    "edit_image takes the name of an edit or, where words are allowed, 'cat to dog'."
)


def build_assistants(service: Service) -> tuple[MCPServer, Starlette]:
    """The server, whose sessions its caller runs, and the application whose routes answer for it."""
    offer, server = service.offer, MCPServer("p2pz_ray", instructions=ABOUT, version=__version__, log_level="ERROR")

    @server.tool(structured_output=False)
    async def list_edits() -> str:
        """The edits that have a name, who makes them, and whether any two words may be asked for."""
        told = {"edits": service.edits(), "any_two_words": offer.config.words.allowed, "models": await service.models()}
        return json.dumps(told, ensure_ascii=False)

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
        """Edit a picture; answers with the edited picture and who made it."""
        try:
            found = read(edit, offer.edits, offer.config.words.allowed)
            if found is None:
                raise ToolError(f"{edit[:80]!r} names no edit: ask list_edits for what is offered.")
            named = {"edit": found} if isinstance(found, str) else {"source": found[0], "target": found[1]}
            request = EditRequest.model_validate(
                {
                    "image": image,
                    "edits": [{**named, "strength": strength}],
                    "seed": seed,
                    "caption": caption,
                    "mask": mask,
                    "model": model,
                }
            )
            answer = await service.edit(await asyncio.to_thread(asked, request, offer))
        except RefusalError as refusal:
            raise ToolError(refusal.message) from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ToolError(f"{first['loc'][-1]} is wrong: {first['msg']}.") from None
        [made] = answer["data"]
        picture = base64.b64decode(made.pop("b64_json"))
        said = {"model": answer["model"], **made, "cost": answer["cost"]}
        return [Image(data=picture, format="png"), json.dumps(said, ensure_ascii=False)]

    @server.tool(structured_output=False)
    async def make_direction(source: str, target: str) -> str:
        """Make the edit between two words ready; answers with what edit_image calls it."""
        try:
            words = service.words(*(" ".join(word.split()) for word in (source, target)))
            return json.dumps(await service.make_direction(*words), ensure_ascii=False)
        except RefusalError as refusal:
            raise ToolError(refusal.message) from None

    if offer.config.bulk is not None:
        bulk = Bulk(offer.config)

        @server.tool(structured_output=False)
        async def submit_collection(
            collection: Annotated[str, Field(description="The collection's name below the service's folder of them.")],
            edit: Annotated[str, Field(description="An edit's name, or two words: 'cat to dog'.")],
            run: Annotated[str, Field(description="A new name for the run.")],
        ) -> str:
            """Send a whole collection to the cluster; answers with the job's id. run_status says how it goes."""
            found = read(edit, offer.edits, offer.config.words.allowed)
            if found is None:
                raise ToolError(f"{edit[:80]!r} names no edit: ask list_edits for what is offered.")
            try:
                return json.dumps(await asyncio.to_thread(bulk.submit, collection, found, run))
            except P2PZError as error:
                raise ToolError(str(error)) from None

        @server.tool(structured_output=False)
        async def run_status(run: str) -> str:
            """How a run stands."""
            try:
                return await asyncio.to_thread(bulk.status, run)
            except P2PZError as error:
                raise ToolError(str(error)) from None

    # Hosts and origins are checked for all routes alike, by the guard.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(
        stateless_http=True,
        json_response=True,
        transport_security=security,
        max_request_body_size=offer.config.limits.body,
    )
    return server, app
