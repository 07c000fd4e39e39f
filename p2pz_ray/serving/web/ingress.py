"""The process that answers HTTP and calls the engines' processes. It loads no model, so it starts quickly."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.running import log
from p2pz_ray.serving.offer import Offer
from p2pz_ray.serving.task import Answer, Progress, Task
from p2pz_ray.serving.web.api import build_app
from p2pz_ray.serving.web.refusal import RefusalError, busy
from p2pz_ray.serving.web.service import Service

LOST = (RayActorError, DeploymentUnavailableError)


class _Ingress:
    """Answers HTTP."""

    def __init__(self, offer: Offer, editor: DeploymentHandle, students: DeploymentHandle | None) -> None:
        log.write_lines()
        self.service = Service(offer, Handle(editor), None if students is None else Handle(students))

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(self.service)


Ingress = serve.ingress()(_Ingress)


class Handle:
    """An engine in other processes. A request whose replica dies is sent once more."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def edit(self, task: Task) -> Answer:
        return await _call(lambda: self.handle.edit.remote(task))

    async def watch(self, task: Task) -> AsyncIterator[Progress | Answer]:
        stream = self.handle.options(stream=True).watch.remote(task)
        try:
            async for event in stream:
                yield event
        except Exception as error:
            raise _refusal(error) from error
        finally:
            stream.cancel()

    async def facts(self) -> dict[str, Any]:
        return await _call(lambda: self.handle.facts.remote())

    async def make_direction(self, source: str, target: str) -> dict[str, Any]:
        return await _call(lambda: self.handle.make_direction.remote(source, target))


async def _call(request: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await request()
    except LOST:
        await asyncio.sleep(0.1)
    except Exception as error:
        raise _refusal(error) from error
    try:
        return await request()
    except Exception as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> Exception:
    if isinstance(error, BackPressureError):
        return busy("Too many requests are waiting: try again a little later.")
    if isinstance(error, LOST):
        return busy("The replica that worked on this request was lost: try again.", retry_after=1)
    if isinstance(error, RayTaskError) and isinstance(error.cause, ConfigError | ImageError):
        return RefusalError(422, str(error.cause))
    return error
