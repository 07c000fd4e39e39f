"""The Ray actor: a translator in a process of its own."""

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

import ray
import torch

from p2pz_ray.collection.manifest import Manifest
from p2pz_ray.collection.partition import Partition
from p2pz_ray.errors import P2PZError
from p2pz_ray.running import log
from p2pz_ray.running.job import Job
from p2pz_ray.running.metrics import ReplicaMetrics
from p2pz_ray.running.translator import DeviceLostError, Translator


def check_gpu(given: Sequence[str], device: str) -> None:
    """Raise P2PZError where Ray has given a GPU that PyTorch doesn't find."""
    if given and device != "cpu" and not torch.cuda.is_available():
        raise P2PZError(f"{socket.gethostname()} has a GPU, but PyTorch finds none there: check its driver")


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
