"""Signals that stop a job, handled within a block."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Asked:
    """call: called on a signal that stops the job. number: of the last such signal."""

    call: Callable[[], None] | None = None
    number: int = signal.SIGINT


@contextmanager
def interruptible() -> Iterator[Asked]:
    """Within the block, SIGTERM (sent when a job is stopped) and Ctrl-C raise KeyboardInterrupt, or call `call` if it
    is set."""
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
