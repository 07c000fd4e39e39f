"""How a run stands, from its manifests alone: no Ray, no driver, from any machine."""

import time
from dataclasses import dataclass
from typing import Any

from p2pz_ray.collection.manifest import RunFolder
from p2pz_ray.errors import ConfigError
from p2pz_ray.running.progress import duration

RECENT = 20
"""The rate is that of so many last commits, so that a pause long ago is forgotten."""


@dataclass(frozen=True)
class Status:
    """Counts of images (`total`, `done`) and of pairs (`ok`, `failed`); `rate` in images a second, None while too
    little is committed to tell; `idle` seconds since the last commit."""

    uri: str
    total: int
    done: int
    ok: int
    failed: int
    finished: bool
    rate: float | None
    idle: float | None

    def __str__(self) -> str:
        share = self.done / max(1, self.total)
        text = f"{self.uri}: {self.done:,} of {self.total:,} images ({share:.0%})"
        text += f", {self.ok:,} pairs ok, {self.failed:,} failed"
        if self.finished:
            return f"{text}; finished."
        if self.rate is not None:
            text += f"; {self.rate:.2f} images/s, about {duration((self.total - self.done) / self.rate)} left"
        return f"{text}; " + (
            "nothing committed yet." if self.idle is None else f"last commit {duration(self.idle)} ago."
        )


def status(uri: str, storage_options: dict[str, Any] | None = None) -> Status:
    """Look at a run, finished or not. Raises ConfigError where there is none."""
    folder = RunFolder(uri, storage_options)
    finished = folder.finished
    plan = folder.plan()
    if plan is None:
        raise ConfigError(f"{uri} is no run: it has no plan.json, so give the output of p2pz translate.")
    manifests = sorted(folder.manifests(plan.partitions).values(), key=lambda manifest: manifest.finished)
    recent = manifests[-RECENT:]
    rate = None
    if recent:
        spent = recent[-1].finished - min(manifest.started for manifest in recent)
        rate = sum(manifest.images for manifest in recent) / spent if spent > 0 else None
    return Status(
        uri=uri,
        total=plan.images,
        done=sum(manifest.images for manifest in manifests),
        ok=sum(manifest.ok for manifest in manifests),
        failed=sum(manifest.failed for manifest in manifests),
        finished=finished,
        rate=rate,
        idle=max(0.0, time.time() - recent[-1].finished) if recent else None,
    )
