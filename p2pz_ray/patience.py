"""What is being done, said where it takes long enough to wonder."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONG = 2.0
"""Seconds of silence after which one wonders."""


@contextmanager
def doing(what: str, long: float = LONG) -> Iterator[None]:
    """Print `what` to stderr if the block takes longer than `long` seconds."""
    timer = threading.Timer(long, lambda: print(f"{what} …", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
