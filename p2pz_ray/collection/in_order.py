"""Several things done at once, and taken in the order in which they were asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_order(call: Callable[[A], B], items: Iterable[A], threads: Executor, most: int) -> Iterator[B]:
    """`call` of each item in other threads, `most` of them begun before they are asked for.

    What a call raises is raised in its place; what `items` raises is, when all before it was given out.
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
