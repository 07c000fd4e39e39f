"""Requests that wait for an engine. When the engine is free it takes a batch of one kind, the oldest first."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class Waiting(Generic[T, R]):
    """A request: what it asks for, and where its answer goes. abandoned: its client has disconnected."""

    kind: Hashable
    request: T
    answer: "asyncio.Future[R]"
    report: Callable[[object], None] | None = None
    """Called with the work's progress, from any thread."""
    abandoned: bool = field(default=False)


class Gathering(Generic[T, R]):
    """work: answers one batch of requests of one kind, in a thread. If it raises, the batch is halved and tried again,
    so that one bad request doesn't fail the others.

    size: the largest batch. wait: seconds that an idle engine waits for more requests after the first.
    """

    def __init__(self, work: Callable[[list[Waiting[T, R]]], list[R]], size: int, wait: float) -> None:
        self.work, self.size, self.wait = work, size, wait
        self._waiting: list[Waiting[T, R]] = []
        self._more = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def answer(self, kind: Hashable, request: T, report: Callable[[object], None] | None = None) -> R:
        """Wait for the answer. A request whose caller is cancelled leaves the queue, or is marked as abandoned."""
        waiting: Waiting[T, R] = Waiting(kind, request, asyncio.get_running_loop().create_future(), report)
        self._waiting.append(waiting)
        self._more.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await waiting.answer
        finally:
            waiting.abandoned = True
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    async def _run(self) -> None:
        idle = True
        while True:
            if not self._waiting:
                idle = True
                self._more.clear()
                await self._more.wait()
                continue
            if idle and self.wait:
                await self._gather(self._waiting[0])
            idle = False
            if batch := self._take():
                await self._answer_batch(batch)

    async def _gather(self, first: Waiting[T, R]) -> None:
        """Wait until a batch is full, but not longer than `wait`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.wait
        while (
            sum(waiting.kind == first.kind for waiting in self._waiting) < self.size
            and (remaining := end - loop.time()) > 0
        ):
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), remaining)
            except TimeoutError:
                return

    def _take(self) -> list[Waiting[T, R]]:
        if not self._waiting:
            return []
        kind = self._waiting[0].kind
        batch = [waiting for waiting in self._waiting if waiting.kind == kind][: self.size]
        self._waiting = [waiting for waiting in self._waiting if waiting not in batch]
        return batch

    async def _answer_batch(self, batch: list[Waiting[T, R]]) -> None:
        batch = [waiting for waiting in batch if not waiting.abandoned]
        if not batch:
            return
        try:
            answers = await asyncio.to_thread(self.work, batch)
        except Exception as error:
            if len(batch) > 1:
                half = len(batch) // 2
                await self._answer_batch(batch[:half])
                await self._answer_batch(batch[half:])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
