"""The service behind the page, the API and the endpoint for assistants: it asks the engines for edits."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from p2pz_ray.picture.codec import encode
from p2pz_ray.serving.offer import Offer
from p2pz_ray.serving.task import Answer, Pixels, Progress, Task
from p2pz_ray.serving.web.prompt import LONGEST, title
from p2pz_ray.serving.web.refusal import RefusalError
from p2pz_ray.serving.web.request import STUDENT, ParsedRequest


class Engine(Protocol):
    """An engine, in this process or another. Its methods raise RefusalError where it can't answer now."""

    def edit(self, task: Task) -> Awaitable[Answer]: ...
    def watch(self, task: Task) -> AsyncIterator[Progress | Answer]: ...
    def facts(self) -> Awaitable[dict[str, Any]]: ...
    def make_direction(self, source: str, target: str) -> Awaitable[dict[str, Any]]: ...


@dataclass
class Service:
    """editor: the diffusion model. students: None where there are none."""

    offer: Offer
    editor: Engine
    students: Engine | None = None

    def __post_init__(self) -> None:
        self._facts: dict[str, Any] | None = None

    async def facts(self) -> dict[str, Any]:
        """The facts of the model, fetched once. Raises RefusalError until the model is loaded."""
        if self._facts is None:
            self._facts = await self.editor.facts()
        return self._facts

    async def edit(self, request: ParsedRequest) -> dict[str, Any]:
        """The answer to a request, as POST /v1/edits gives it."""
        started = time.perf_counter()
        engine = self._engine(request)
        answers = await self._in_time(asyncio.gather(*(engine.edit(task) for task in request.tasks)))
        return await asyncio.to_thread(self._response, request, answers, time.perf_counter() - started)

    async def events(self, request: ParsedRequest) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(event, data): "progress" after each step, then "done" with the answer, or "error" with the reason."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.offer.config.limits.timeout):
                async for event in self._engine(request).watch(request.tasks[0]):
                    if isinstance(event, Progress):
                        yield "progress", await asyncio.to_thread(_progress, event)
                    else:
                        seconds = time.perf_counter() - started
                        yield "done", await asyncio.to_thread(self._response, request, [event], seconds)
        except TimeoutError:
            yield "error", self._timeout().body()
        except RefusalError as refusal:
            yield "error", refusal.body()

    def words(self, source: str, target: str) -> tuple[str, str]:
        """Check a client's two words; returns them. Raises RefusalError where they can't be used."""
        if not self.offer.config.words.allowed:
            raise RefusalError(422, "Edits between any two words are not allowed here: GET /v1/edits lists what is.")
        for key, word in (("source", source), ("target", target)):
            if not 0 < len(word) <= LONGEST:
                raise RefusalError(422, f"{key} has {len(word)} letters: give a word of 1 to {LONGEST}.", key)
        return source, target

    async def make_direction(self, source: str, target: str) -> dict[str, Any]:
        """Prepare the direction between two words."""
        return {"edit": f"{source} to {target}", **await self._in_time(self.editor.make_direction(source, target))}

    async def models(self) -> list[dict[str, Any]]:
        """The models that make edits, as GET /v1/models lists them."""
        height, width = self.offer.size
        common = {"object": "model", "created": 0, "owned_by": "p2pz_ray"}
        config = self.offer.config
        model = {"id": self.offer.model, **common, "kind": "diffusion", "batch": config.batch.size}
        models = [{**model, "size": [width, height], **await self.facts()}]
        if self.students is not None:
            student = {"id": STUDENT, **common, "kind": "student", "batch": config.student_batch.size}
            strongest = {edit: entry.strongest for edit, entry in self.offer.students.items()}
            models.append({**student, "edits": list(self.offer.students), "strongest": strongest})
        return models

    def edits(self) -> list[dict[str, Any]]:
        """The edits that have a name, as GET /v1/edits lists them."""
        offered = self.offer.config.offered
        edits = []
        for name, words in self.offer.edits.items():
            models = [self.offer.model] if name in offered else []
            edits.append(
                {
                    "name": name,
                    "title": title(name, words),
                    "source": words[0] if words else None,
                    "target": words[1] if words else None,
                    "strength": offered[name].strength if name in offered else 1.0,
                    "models": models + ([STUDENT] if name in self.offer.students else []),
                }
            )
        return edits

    def _engine(self, request: ParsedRequest) -> Engine:
        return self.students if request.by_student and self.students is not None else self.editor

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(asyncio.ensure_future(work), self.offer.config.limits.timeout)
        except TimeoutError:
            raise self._timeout() from None

    def _timeout(self) -> RefusalError:
        limit = self.offer.config.limits.timeout
        return RefusalError(504, f"The edit took longer than {limit:g} s and was stopped: try again.", code="timeout")

    def _response(self, request: ParsedRequest, answers: list[Answer], seconds: float) -> dict[str, Any]:
        data = []
        for answer, task, seed in zip(answers, request.tasks, request.seeds, strict=True):
            for pixels, name, strengths in zip(answer.pixels, request.names, request.strengths, strict=True):
                data.append(
                    {
                        "b64_json": to_base64(pixels, request.format, request.size),
                        "edit": name,
                        "strength": strengths[0] if len(strengths) == 1 else strengths,
                        "seed": seed,
                        "caption": answer.caption or task.otherwise,
                    }
                )
        response = {
            "created": int(time.time()),
            "model": request.model,
            "data": data,
            "cost": {
                "seconds": round(seconds, 3),
                "engine_seconds": max(answer.seconds for answer in answers),
                "steps": sum(answer.steps for answer in answers),
                "batch": max(answer.batch for answer in answers),
            },
        }
        if request.source:
            response["source"] = to_base64(request.tasks[0].pixels, "png")
        return response


def to_base64(pixels: Pixels, format: str = "png", size: tuple[int, int] | None = None) -> str:
    """A picture's file in base64, scaled to `size` (W, H) where that is given."""
    if size is not None and size != pixels.shape[1::-1]:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return base64.b64encode(encode(pixels, format)).decode()  # type: ignore[arg-type]


def _progress(progress: Progress) -> dict[str, Any]:
    preview = None if progress.preview is None else [to_base64(pixels) for pixels in progress.preview]
    return {"step": progress.step, "of": progress.of, "preview": preview}
