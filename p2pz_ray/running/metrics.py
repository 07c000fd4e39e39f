"""Metrics of runs for Ray's dashboard and Prometheus; there each name begins with `ray_`.

Metrics never make a run fail: tags are ASCII, as Ray requires, and errors in reporting are ignored.
"""

from contextlib import suppress
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.storage.failure import shown

SECONDS = [1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600]


class Told:
    """A Ray metric, tagged with its run, that never raises."""

    def __init__(
        self, kind: Any, run: str, name: str, description: str, *rest: Any, tags: tuple[str, ...] = ()
    ) -> None:
        self.metric: Any = None
        with suppress(Exception):
            self.metric = kind(name, description, *rest, ("run", *tags))
            self.metric.set_default_tags({"run": tag(run)})

    def inc(self, amount: float = 1.0, **tags: str) -> None:
        self._tell("inc", amount, tags)

    def set(self, value: float) -> None:
        self._tell("set", value, {})

    def observe(self, value: float) -> None:
        self._tell("observe", value, {})

    def _tell(self, how: str, value: float, tags: dict[str, str]) -> None:
        with suppress(Exception):
            getattr(self.metric, how)(value, {name: tag(text) for name, text in tags.items()})


def tag(text: str) -> str:
    """A tag's value in ASCII; other characters are backslash-escaped."""
    return shown(text).encode("ascii", "backslashreplace").decode("ascii")


class ReplicaMetrics:
    """Metrics of one replica: images, pairs by status, and where its time goes."""

    def __init__(self, run: str) -> None:
        self.images = Told(Counter, run, "p2pz_images", "Images translated, failed ones included.")
        self.pairs = Told(Counter, run, "p2pz_pairs", "Pairs committed.", tags=("status",))
        self.spent = Told(Histogram, run, "p2pz_partition_seconds", "From a partition's start to its commit.", SECONDS)
        self.stages = Told(Counter, run, "p2pz_stage_seconds", "Where a replica's time goes.", tags=("stage",))

    def committed(self, manifest: Manifest) -> None:
        self.images.inc(manifest.images)
        for status, count in (("ok", manifest.ok), ("error", manifest.failed)):
            if count:
                self.pairs.inc(count, status=status)
        self.spent.observe(max(0.0, manifest.finished - manifest.started))
        for stage, seconds in manifest.seconds.items():
            if seconds > 0:
                self.stages.inc(seconds, stage=stage)


class DriverMetrics:
    """Metrics of the driver about its pool."""

    def __init__(self, run: str) -> None:
        self.replicas = Told(Gauge, run, "p2pz_replicas", "Replicas with their model loaded.")
        self.left = Told(Gauge, run, "p2pz_partitions_left", "Partitions that are not committed yet.")
        self.lost = Told(Counter, run, "p2pz_replicas_lost", "Replicas that died or had to be started anew.")
