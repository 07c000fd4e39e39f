"""Silence is explained where it is long, and short waits are not spoken of."""

import threading

import pytest

from p2pz_ray.patience import doing


def test_a_long_wait_says_what_is_being_done(capfd: pytest.CaptureFixture[str]) -> None:
    with doing("Thinking", 0):
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    assert capfd.readouterr().err == "Thinking …\n"


def test_a_short_wait_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with doing("Thinking", 60):
        timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert timers
    for timer in timers:
        timer.join()
    assert capfd.readouterr().err == ""
