"""Signals that ask a job to end, heard for the time of a block."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Asked:
    """call: what a signal that asks for an end calls. number: of the last such signal."""

    call: Callable[[], None] | None = None
    number: int = signal.SIGINT


@contextmanager
def interruptible() -> Iterator[Asked]:
    """Within the block, SIGTERM (what a job's stop sends) and Ctrl-C raise KeyboardInterrupt, or call what is to be
    called."""
    asked = Asked()

    def interrupt(number: int, _: object) -> None:
        asked.number = number
        if asked.call is None:
            raise KeyboardInterrupt
        asked.call()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
