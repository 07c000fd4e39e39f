"""The progress of a run: a live bar on a terminal, or a line every few seconds in a log file."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from p2pz_ray.amount import count

LINE_EVERY = 10.0  # seconds between two lines of a log


@dataclass(frozen=True)
class Reached:
    """The progress of a run. images, failed: done and failed, of `total`; rate: images per second; left: seconds, None
    while unknown; replicas: with their model loaded."""

    images: int
    total: int
    failed: int
    rate: float
    left: float | None
    replicas: int

    def __str__(self) -> str:
        share = f"{self.images:,} of {count(self.total, 'image')} ({self.images / max(1, self.total):.0%})"
        parts = [
            share,
            f"{self.rate:.2f} images/s",
            *([f"{duration(self.left)} left"] if self.left is not None else []),
        ]
        ready = count(self.replicas, "replica") if self.replicas else "waiting for a replica"
        return ", ".join([*parts, f"{self.failed:,} failed", ready])


class Progress:
    """Images done of `total`, of which `done` were there already and `failed` are error rows.

    on_progress: called with the progress, which is then not shown.
    """

    def __init__(
        self,
        total: int,
        done: int,
        failed: int,
        stream: TextIO | None = None,
        on_progress: Callable[[Reached], None] | None = None,
    ) -> None:
        self.total, self.done, self.failed = total, done, failed
        self.before = done
        self.stream = stream or sys.stderr
        self.began: float | None = None
        """When the first replica was ready: the rate does not include loading."""
        self.on_progress = on_progress
        self.bar: Any = None
        self._shown = done
        self._next_line = time.monotonic() + LINE_EVERY
        self._said_unknown = False
        if on_progress is None and (self.stream.isatty() or in_notebook()):
            from tqdm.auto import tqdm  # a widget in a notebook, a bar on a terminal

            self.bar = tqdm(
                total=total,
                initial=done,
                unit=" images",
                file=self.stream,
                smoothing=0.1,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} images "
                "[{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]",
            )

    @property
    def rate(self) -> float:
        """Images per second since the first replica was ready."""
        return 0.0 if self.began is None else (self._shown - self.before) / (time.monotonic() - self.began + 1e-9)

    def commit(self, images: int, failed: int) -> None:
        """Count a committed partition."""
        self.done += images
        self.failed += failed

    def show(self, underway: int = 0, replicas: int = 0) -> None:
        """Update the display; `underway` images are translated but not committed yet."""
        if replicas and self.began is None:
            self.began = time.monotonic()
            if self.bar is not None:
                self.bar.unpause()
        self._shown = max(self._shown, min(self.total, self.done + underway))
        if self.on_progress is not None:
            self.on_progress(self.reached(replicas))
        elif self.bar is not None:
            ready = count(replicas, "replica") if self.began else "waiting for a replica"
            self.bar.set_postfix_str(f"{self.failed:,} failed, {ready}", refresh=False)
            self.bar.update(self._shown - self.bar.n)
            self.bar.refresh()
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            self.say(self._line(replicas))

    def say(self, message: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(message, file=self.stream)
        else:
            print(message, file=self.stream, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def reached(self, replicas: int) -> Reached:
        """The progress, with this many replicas at work."""
        left = (self.total - self._shown) / self.rate if self.rate > 0 else None
        return Reached(self._shown, self.total, self.failed, self.rate, left, replicas if self.began else 0)

    def _line(self, replicas: int) -> str:
        reached = self.reached(replicas)
        unknown = reached.left is None and not self._said_unknown
        self._said_unknown = self._said_unknown or unknown
        note = "; how long it takes isn't known before the first are done" if unknown else ""
        return f"{time.strftime('%H:%M:%S')}  {reached}{note}"


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, where a bar is a widget."""
    return "ipykernel" in sys.modules


def duration(seconds: float) -> str:
    """Seconds as 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
