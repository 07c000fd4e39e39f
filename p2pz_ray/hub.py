"""Retries of requests to the Hugging Face hub when it is busy or fails for a moment."""

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")
TRIES = 6
LONGEST = 60.0  # seconds between two tries


def patiently(work: Callable[[], T]) -> T:
    """Call `work`, and again after longer and longer waits while the hub answers that it is busy or failing. The hub's
    client retries only some requests itself. Returns or raises as the last call does."""
    for tried in range(TRIES - 1):
        try:
            return work()
        except Exception as error:
            asked = _wait(error)
            if asked is None:
                raise
        time.sleep(min(LONGEST, max(asked, 0.2 * 2**tried)))
    return work()


def _wait(error: BaseException | None) -> float | None:
    """Seconds that the hub asks to wait, 0 where it doesn't say; None where neither the error nor its causes are a
    temporary error of the hub."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            if error.response.status_code != 429 and error.response.status_code < 500:
                return None
            said = error.response.headers.get("Retry-After", "")
            return float(said) if said.isdigit() else 0.0
        error = error.__cause__ or error.__context__
    return None
