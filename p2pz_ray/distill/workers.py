"""A training on Ray Train: one or more workers. It recovers from a lost worker, and workers may come and go."""

import os
import shutil
import tempfile
import threading
from typing import Any

import ray
import torch

from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.distill.loop import train
from p2pz_ray.distill.peers import Peers
from p2pz_ray.errors import P2PZError, first_line
from p2pz_ray.running.cluster import connected
from p2pz_ray.storage.failure import StorageError

LISTEN_SECONDS = 1.0


class Console:
    """The first worker's lines, kept until the driver fetches them: workers' own output stays in Ray's logs."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._problem: str | None = None

    def say(self, line: str) -> None:
        self._lines.append(line)

    def fail(self, sentence: str) -> None:
        self._problem = sentence

    def take(self) -> tuple[list[str], str | None]:
        """The lines since the last call, and the reason why the training can't go on, or None."""
        lines, self._lines = self._lines, []
        return lines, self._problem


def train_on_ray(config: DistillConfig) -> None:
    """Train with the configured workers. Raises P2PZError where the training can't go on, or lost workers too often."""
    config = _absolute(config)
    fewest, most = config.workers.bounds
    with connected(config):
        console = ray.remote(num_cpus=0)(Console).remote()
        stopped = threading.Event()
        listener = threading.Thread(target=_listen, args=(console, stopped), daemon=True)
        listener.start()
        try:
            _fit(config, console, fewest if fewest == most else (fewest, most))
        finally:
            stopped.set()
            listener.join()
        lines, problem = ray.get(console.take.remote())
        _print(lines)
        if problem is not None:
            raise P2PZError(problem)


def _fit(config: DistillConfig, console: Any, workers: int | tuple[int, int]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpus = config.workers.gpus
    if gpus is None:
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        gpus = 1.0 if config.device == "cuda" or (config.device == "auto" and has_gpus) else 0.0
    resources = {"CPU": config.workers.cpus} | ({"GPU": gpus} if gpus else {})
    threads = max(1, int(config.workers.cpus))

    # A closure, not train_loop_config, which Ray records: the configuration may hold storage options.
    def work() -> None:
        _work(config, console, threads)

    # Ray's own record of the training isn't needed afterwards: the output holds all results.
    scratch = tempfile.mkdtemp(prefix="p2pz-train-")
    try:
        TorchTrainer(
            work,
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=resources),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.workers.max_failures),
            ),
        ).fit()
    except TrainingFailedError as error:
        cause = error.__cause__ or error
        raise P2PZError(
            f"The training of {config.output} lost workers more often than workers.max_failures allows "
            f"({config.workers.max_failures}), the last time by {first_line(cause)}: the same command goes on from "
            "the last checkpoint."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _work(config: DistillConfig, console: Any, threads: int) -> None:
    """What one worker does."""
    import ray.train.torch

    context = ray.train.get_context()
    peers = Peers(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(threads)
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        # A report is a barrier, so that no worker runs on while the first one still writes a checkpoint.
        train(config, peers, console.say.remote, device.type, lambda losses: ray.train.report(dict(losses)))
    except StorageError:
        raise  # another try may help
    except P2PZError as error:  # every worker's, and again in every try
        if peers.rank == 0:
            ray.get(console.fail.remote(str(error)))


def _listen(console: Any, stopped: threading.Event) -> None:
    while not stopped.wait(LISTEN_SECONDS):
        try:
            _print(ray.get(console.take.remote())[0])
        except ray.exceptions.RayError:
            return  # the training's own end says what happened


def _print(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _absolute(config: DistillConfig) -> DistillConfig:
    """Workers may stand in another folder than the driver, so a local output is made absolute."""
    if "://" in config.output:
        return config
    return config.model_copy(update={"output": os.path.abspath(os.path.expanduser(config.output))})
