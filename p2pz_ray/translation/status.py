"""The status of a run from its manifests alone: without Ray or a driver, on any machine."""

import heapq
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.errors import ConfigError
from p2pz_ray.running.progress import duration

RECENT = 20
"""Number of latest commits from which the rate is computed, so that earlier pauses don't matter."""
SLOWEST = 3
"""Partitions that are named, if they took this much longer than usual:"""
UNUSUAL = 2.0
STALLED, AT_LEAST = 3.0, 60.0
"""A run probably has no driver if it committed nothing for this many times its longest partition, and at least for this
many seconds."""


@dataclass(frozen=True)
class ReplicaShare:
    """One replica's part of a run: its images, and the share of its time, 0 … 1, in which its model worked."""

    name: str
    images: int
    utilization: float


@dataclass(frozen=True)
class Status:
    """Counts of images (`total`, `done`) and of pairs (`ok`, `failed`); `rate` in images per second, None while too
    little is committed; `idle` seconds since the last commit; `usual` seconds of a partition, the median;
    `slowest` partitions that took unusually long, with their seconds; `stalled` whether nothing was committed for so
    long that its driver is probably gone."""

    uri: str
    total: int
    done: int
    ok: int
    failed: int
    finished: bool
    rate: float | None
    idle: float | None
    stalled: bool
    usual: float | None
    slowest: tuple[tuple[str, float], ...]
    replicas: tuple[ReplicaShare, ...]

    def __str__(self) -> str:
        share = self.done / max(1, self.total)
        text = f"{self.uri}: {self.done:,} of {self.total:,} images ({share:.0%})"
        text += f", {self.ok:,} pairs ok, {self.failed:,} failed"
        if self.finished:
            text += "; finished."
        elif self.stalled and self.idle is not None:
            text += f"; nothing was committed for {duration(self.idle)}, so its driver is probably gone. "
            text += "The command that began it goes on from here."
        else:
            if self.rate is not None:
                text += f"; {self.rate:.2f} images/s, about {duration((self.total - self.done) / self.rate)} left"
            text += "; " + (
                "nothing committed yet." if self.idle is None else f"last commit {duration(self.idle)} ago."
            )
        return "\n  ".join([text, *self._details()])

    def to_json(self) -> str:
        """The status as a JSON object on one line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def _details(self) -> list[str]:
        lines = []
        if self.usual is not None:
            lines.append(f"a partition takes {duration(self.usual)} as a rule")
            if self.slowest:
                named = ", ".join(f"{id} {duration(seconds)}" for id, seconds in self.slowest)
                lines[-1] += f"; unusually long: {named}"
        lines += [
            f"replica {replica.name}: {replica.images:,} images, its model at work for {replica.utilization:.0%} of it"
            for replica in self.replicas
        ]
        return lines


def status(uri: str, storage_options: dict[str, Any] | None = None) -> Status:
    """The status of a run, finished or not. Raises ConfigError if there is none."""
    folder = RunFolder(uri, storage_options)
    finished = folder.finished
    planned = folder.outline()
    if planned is None:
        raise ConfigError(f"{uri} is no run: it has no plan.json, so give the output of p2pz translate.")
    ids, total = planned
    manifests = list(folder.manifests(ids).values())
    recent = heapq.nlargest(RECENT, manifests, key=lambda manifest: manifest.finished)
    rate = None
    if recent:
        spent = recent[0].finished - min(manifest.started for manifest in recent)
        rate = sum(manifest.images for manifest in recent) / spent if spent > 0 else None
    took = sorted(m.finished - m.started for m in manifests)
    usual = took[(len(took) - 1) // 2] if took else None
    idle = max(0.0, time.time() - recent[0].finished) if recent else None
    slowest = heapq.nlargest(SLOWEST, ((m.finished - m.started, m.partition) for m in manifests))
    return Status(
        uri=uri,
        total=total,
        done=sum(manifest.images for manifest in manifests),
        ok=sum(manifest.ok for manifest in manifests),
        failed=sum(manifest.failed for manifest in manifests),
        finished=finished,
        rate=rate,
        idle=idle,
        stalled=not finished and idle is not None and idle > max(AT_LEAST, STALLED * took[-1]),
        usual=usual,
        slowest=tuple((id, seconds) for seconds, id in slowest if usual and seconds > UNUSUAL * usual),
        replicas=_replicas(manifests),
    )


def watch(
    uri: str,
    show: Callable[[Status], None],
    storage_options: dict[str, Any] | None = None,
    pause: float = 5.0,
) -> Status:
    """Check a run every `pause` seconds, and show its status after each new commit, until it has finished."""
    shown: tuple[int, bool] | None = None
    while True:
        found = status(uri, storage_options)
        if shown != (found.done, found.finished):
            show(found)
            shown = (found.done, found.finished)
        if found.finished:
            return found
        time.sleep(pause)


def _replicas(manifests: Sequence[Manifest]) -> tuple[ReplicaShare, ...]:
    by_name: dict[str, list[Manifest]] = defaultdict(list)
    for manifest in manifests:
        if manifest.replica:  # error rows written by the driver have no replica
            by_name[manifest.replica].append(manifest)
    shares = []
    for name, own in sorted(by_name.items()):
        span = max(manifest.finished for manifest in own) - min(manifest.started for manifest in own)
        worked = sum(manifest.seconds.get("model", 0.0) for manifest in own)
        shares.append(ReplicaShare(name, sum(manifest.images for manifest in own), worked / span if span > 0 else 0.0))
    return tuple(shares)
