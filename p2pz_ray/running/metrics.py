"""What Ray's dashboard and Prometheus are told of runs; there each name begins with `ray_`."""

from ray.util.metrics import Counter, Gauge, Histogram

from p2pz_ray.collection.manifest import Manifest

SECONDS = [1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600]


class ReplicaMetrics:
    """What one replica counts of a run: images and pairs by how they ended, and where its time goes."""

    def __init__(self, run: str) -> None:
        run_tag = {"run": run}
        self.images = Counter("p2pz_images", "Images translated, failed ones included.", ("run",))
        self.pairs = Counter("p2pz_pairs", "Pairs committed.", ("run", "status"))
        self.spent = Histogram("p2pz_partition_seconds", "From a partition's start to its commit.", SECONDS, ("run",))
        self.stages = Counter("p2pz_stage_seconds", "Where a replica's time goes.", ("run", "stage"))
        for metric in (self.images, self.pairs, self.spent, self.stages):
            metric.set_default_tags(run_tag)

    def committed(self, manifest: Manifest) -> None:
        self.images.inc(manifest.images)
        for status, count in (("ok", manifest.ok), ("error", manifest.failed)):
            if count:
                self.pairs.inc(count, {"status": status})
        self.spent.observe(max(0.0, manifest.finished - manifest.started))
        for stage, seconds in manifest.seconds.items():
            if seconds > 0:
                self.stages.inc(seconds, {"stage": stage})


class DriverMetrics:
    """What the driver sees of its pool."""

    def __init__(self, run: str) -> None:
        self.replicas = Gauge("p2pz_replicas", "Replicas with their model loaded.", ("run",))
        self.left = Gauge("p2pz_partitions_left", "Partitions that are not committed yet.", ("run",))
        self.lost = Counter("p2pz_replicas_lost", "Replicas that died or had to be started anew.", ("run",))
        for metric in (self.replicas, self.left, self.lost):
            metric.set_default_tags({"run": run})
