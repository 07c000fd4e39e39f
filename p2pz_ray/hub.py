"""Asking the Hugging Face hub again where it is ill for a moment or has too much to do."""

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")
TRIES = 6
LONGEST = 60.0  # seconds between two tries


def patiently(work: Callable[[], T]) -> T:
    """What `work` returns; it is done again, after longer and longer waits, where the hub answers that it is busy or
    ill. The hub's client itself does so for some of its requests. Raises what `work` raises in the end."""
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
    """Seconds that the hub asks to wait for; None where an error, or what it came from, is no passing one of the
    hub's."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            if error.response.status_code != 429 and error.response.status_code < 500:
                return None
            said = error.response.headers.get("Retry-After", "")
            return float(said) if said.isdigit() else 0.0
        error = error.__cause__ or error.__context__
    return None
