"""Messages about work that takes long enough to make a user wonder."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONG = 2.0
"""Seconds after which the message is printed."""


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
