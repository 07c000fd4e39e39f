"""How far a run is: a live bar on a terminal, a line every few seconds in a log file."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between two lines of a log


class Progress:
    """Images done of `total`, of which `done` were there already and `failed` are error rows."""

    def __init__(self, total: int, done: int, failed: int, stream: TextIO | None = None) -> None:
        self.total, self.done, self.failed = total, done, failed
        self.before = done
        self.stream = stream or sys.stderr
        self.began: float | None = None
        """When the first replica was ready: loading a model is no part of the speed."""
        self.bar: tqdm | None = None
        self._shown = done
        self._next_line = time.monotonic() + LINE_EVERY
        if self.stream.isatty():
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
        """Images a second since the first replica was ready."""
        return 0.0 if self.began is None else (self._shown - self.before) / (time.monotonic() - self.began + 1e-9)

    def commit(self, images: int, failed: int) -> None:
        """A partition is committed."""
        self.done += images
        self.failed += failed

    def show(self, underway: int = 0, replicas: int = 0) -> None:
        """Bring the display up to date; `underway` images are translated but not committed yet."""
        if replicas and self.began is None:
            self.began = time.monotonic()
            if self.bar is not None:
                self.bar.unpause()
        self._shown = max(self._shown, min(self.total, self.done + underway))
        if self.bar is not None:
            ready = f"{replicas} replicas" if self.began else "waiting for a replica"
            self.bar.set_postfix_str(f"{self.failed:,} failed, {ready}", refresh=False)
            self.bar.update(self._shown - self.bar.n)
            self.bar.refresh()
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            self.say(self._line(replicas))

    def say(self, message: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(message, file=self.stream)
        else:
            print(message, file=self.stream, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _line(self, replicas: int) -> str:
        share = f"{self._shown:,} of {self.total:,} images ({self._shown / max(1, self.total):.0%})"
        speed = f"{self.rate:.2f} images/s"
        left = (
            f"{duration((self.total - self._shown) / self.rate)} left" if self.rate > 0 else "time left not known yet"
        )
        ready = f"{replicas} replicas" if self.began else "waiting for a replica"
        return f"{time.strftime('%H:%M:%S')}  {share}, {speed}, {left}, {self.failed:,} failed, {ready}"


def duration(seconds: float) -> str:
    """Seconds as 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
