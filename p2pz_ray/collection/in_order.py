"""Parallel calls whose results keep the order of their items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_order(call: Callable[[A], B], items: Iterable[A], threads: Executor, most: int) -> Iterator[B]:
    """The results of `call` on each item, computed in other threads, up to `most` of them ahead.

    An exception of a call is raised in its place; one of `items` after all earlier results.
    """
    coming, begun = iter(items), deque[Future[B]]()
    failure: Exception | None = None  # what `items` raised, its end included
    try:
        while True:
            while failure is None and len(begun) < most:
                try:
                    begun.append(threads.submit(call, next(coming)))
                except Exception as error:
                    failure = error
            if begun:
                yield begun.popleft().result()
            elif isinstance(failure, StopIteration):
                return
            elif failure is not None:
                raise failure
    finally:
        for future in begun:
            future.cancel()
