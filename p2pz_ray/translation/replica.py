"""The Ray actor: a translator in a process of its own."""

import os
import threading
from typing import Any

import ray
import torch

from p2pz_ray.collection.partition import Partition
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.engines.job import Job
from p2pz_ray.running import log
from p2pz_ray.running.cluster import check_gpu, gpus
from p2pz_ray.running.metrics import ReplicaMetrics
from p2pz_ray.translation.translator import DeviceLostError, Translator


class Replica:
    """A model on one device, kept for as many partitions as there are.

    Loading is a call of its own and not the constructor's work: its errors come back as what they are, and a restarted
    actor stands again at once.
    """

    def __init__(self, job: Job, threads: int) -> None:
        torch.set_num_threads(threads)
        log.write_lines()
        self.job = job
        self.metrics = ReplicaMetrics(job.config.output)
        self.translator: Translator | None = None
        self._loading = threading.Lock()

    @ray.method(max_task_retries=1)
    def load(self) -> dict[str, Any]:
        """Load the model, unless it is loaded; returns where it stands.

        Raises P2PZError where the machine's GPU can't be used: a slow replica on its CPU would be worse than none.
        """
        here = ray.get_runtime_context()
        with self._loading:
            if self.translator is None:
                check_gpu(here.get_accelerator_ids().get("GPU", []), self.job.config.device)
                self.translator = Translator(self.job)
        return {"pid": os.getpid(), "device": self.translator.device, "node": here.get_node_id()}

    @ray.method(concurrency_group="translate")
    def translate(self, partition: Partition) -> Manifest:
        """Translate and commit a partition, while others are read or written: see `Translator.translate`. A process
        whose device is lost ends itself, so that Ray starts another."""
        self.load()
        assert self.translator is not None
        try:
            manifest = self.translator.translate(partition)
        except DeviceLostError:
            os._exit(1)
        self.metrics.committed(manifest)
        log.committed(self.job.config.output, manifest)
        return manifest

    @ray.method(concurrency_group="watch")
    def underway(self) -> int:
        """Images of its partitions that are done; answered while `translate` works."""
        return 0 if self.translator is None else self.translator.underway


def replicas(job: Job, partitions: int) -> list[Any]:
    """The actors of a run, not more than it has partitions. They wait for room in the cluster by themselves."""
    wanted = job.config.replicas
    actor = ray.remote(concurrency_groups={"watch": 1, "translate": wanted.in_flight})(Replica).options(
        num_cpus=wanted.cpus,
        num_gpus=gpus(job.config),
        max_restarts=wanted.max_restarts,
        # The loop itself hands work out again, since it knows which partition is to blame; only loading waits for
        # a restart by Ray's own retry.
        max_task_retries=0,
    )
    count = min(wanted.bounds[1], partitions)
    return [actor.remote(job, max(1, int(wanted.cpus))) for _ in range(count)]
