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
    """A model on one device, used for many partitions.

    Loading is a call of its own and not done by the constructor: so its errors come back unchanged, and a restarted
    actor is alive at once.
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
        """Load the model, unless it is loaded; returns where it runs.

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
        """Translate and commit a partition, while others are read or written; see `Translator.translate`. A process
        that has lost its device exits, so that Ray starts another."""
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
        """Images done of partitions in progress; can be called while `translate` runs."""
        return 0 if self.translator is None else self.translator.underway


def replicas(job: Job, partitions: int) -> list[Any]:
    """The actors of a run, at most one per partition. They wait for free resources in the cluster."""
    wanted = job.config.replicas
    actor = ray.remote(concurrency_groups={"watch": 1, "translate": wanted.in_flight})(Replica).options(
        num_cpus=wanted.cpus,
        num_gpus=gpus(job.config),
        max_restarts=wanted.max_restarts,
        # The pool itself hands out lost work again, since it finds out which partition is to blame; Ray retries only
        # loading.
        max_task_retries=0,
    )
    count = min(wanted.bounds[1], partitions)
    return [actor.remote(job, max(1, int(wanted.cpus))) for _ in range(count)]
