"""Requests waiting for an engine. Whenever it is free it takes those of one kind together, the oldest first."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class Waiting(Generic[T, R]):
    """A request: what it asks for, and where its answer goes. `left` once nobody waits for it any more."""

    kind: Hashable
    asked: T
    answer: "asyncio.Future[R]"
    tell: Callable[[object], None] | None = None
    """Takes what the work tells of its progress, in any thread."""
    left: bool = field(default=False)


class Gathering(Generic[T, R]):
    """work: answers some requests of one kind, in a thread, one batch at a time. It may raise for all of them: then
    they are tried by halves, so that one that can't be answered doesn't take others with it.

    size: the most to answer at once. wait: seconds that an idle engine waits for more after the first.
    """

    def __init__(self, work: Callable[[list[Waiting[T, R]]], list[R]], size: int, wait: float) -> None:
        self.work, self.size, self.wait = work, size, wait
        self._waiting: list[Waiting[T, R]] = []
        self._more = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def answer(self, kind: Hashable, asked: T, tell: Callable[[object], None] | None = None) -> R:
        """Wait for the answer. A caller who is cancelled meanwhile leaves; what is begun for nobody is ended."""
        waiting: Waiting[T, R] = Waiting(kind, asked, asyncio.get_running_loop().create_future(), tell)
        self._waiting.append(waiting)
        self._more.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await waiting.answer
        finally:
            waiting.left = True
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
                await self._answered(batch)

    async def _gather(self, first: Waiting[T, R]) -> None:
        """Wait until a batch is full, but not longer than `wait`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.wait
        while sum(one.kind == first.kind for one in self._waiting) < self.size and (rest := end - loop.time()) > 0:
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), rest)
            except TimeoutError:
                return

    def _take(self) -> list[Waiting[T, R]]:
        if not self._waiting:
            return []
        kind = self._waiting[0].kind
        batch = [one for one in self._waiting if one.kind == kind][: self.size]
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    async def _answered(self, batch: list[Waiting[T, R]]) -> None:
        batch = [one for one in batch if not one.left]
        if not batch:
            return
        try:
            answers = await asyncio.to_thread(self.work, batch)
        except Exception as error:
            if len(batch) > 1:
                half = len(batch) // 2
                await self._answered(batch[:half])
                await self._answered(batch[half:])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
