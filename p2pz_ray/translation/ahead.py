"""An iterator that works ahead in its own thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar, cast

T = TypeVar("T")


class Ahead(Iterator[T]):
    """The items of an iterator, which runs in its own thread at most `depth` items ahead. Its exceptions are raised
    here. `close` stops the thread."""

    def __init__(self, items: Generator[T, None, None], depth: int) -> None:
        self._items = items
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        item, error = self._ready.get()
        if error is not None:
            raise error
        return cast(T, item)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        error: BaseException = StopIteration()
        try:
            for item in self._items:
                if not self._put((item, None)):
                    return
        except BaseException as raised:
            error = raised
        finally:
            self._items.close()
        self._put((None, error))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
