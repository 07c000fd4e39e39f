"""The connection to Ray: a cluster at an address, or one started on this machine for the duration of a run."""

import math
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import ray
import torch

from p2pz_ray.config.processes import Processes, RayConfig
from p2pz_ray.config.section import Device
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.patience import doing
from p2pz_ray.running.ray_folder import check_address, check_ray_folder
from p2pz_ray.running.ray_private import JOB_VARIABLE, loopback_alone, outward_address, started_here

CONNECT_SECONDS = 10.0


class Placed(Protocol):
    """The part of a job's configuration that says where it runs."""

    @property
    def ray(self) -> RayConfig: ...
    @property
    def device(self) -> Device: ...
    @property
    def replicas(self) -> Processes: ...


@contextmanager
def connected(config: Placed) -> Iterator[None]:
    """A connection to Ray for a `with` block: the one that this process already has (and keeps), the cluster at
    `ray.address` or RAY_ADDRESS, or a new one on this machine that ends with the block.

    Raises ConfigError if no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    named = "ray.address" if config.ray.address else "RAY_ADDRESS"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address and address != "local":
        check_address(address, named)
        _check_reachable(address, named)
        try:
            with (
                doing(f"Connecting to Ray at {address}"),
                loopback_alone() if _on_loopback_alone(address) else nullcontext(),
            ):
                ray.init(address=address, runtime_env=_own_code(), **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"There is no Ray cluster at {address} ({first_line(error)}): check {named}.") from error
    else:
        _start(config, quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _own_code() -> dict[str, Any]:
    """The runtime environment that sends this very package to the cluster's replicas, whatever version is installed
    there. Inside a submitted job nothing is sent: the job's environment has it already."""
    return {} if JOB_VARIABLE in os.environ else {"py_modules": [str(Path(__file__).parents[1])]}


def _check_reachable(address: str, named: str) -> None:
    """Raise at once if no head node answers: Ray itself would wait ten minutes."""
    place = _host_and_port(address)
    if place is None:
        return  # "auto", which Ray answers at once
    try:
        _call(*place)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"There is no Ray cluster at {address} ({first_line(error)}): check {named}.") from error


def _on_loopback_alone(address: str) -> bool:
    """Whether a Ray on this machine listens only on the loopback address. Ray's client would otherwise try the
    machine's outward address for ten minutes."""
    place = _host_and_port((started_here() or "") if address == "auto" else address)
    if place is None or place[0] not in ("127.0.0.1", "localhost", "::1"):
        return False
    try:
        _call(outward_address(), place[1])
    except OSError:
        return True
    return False


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def _call(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()


def _start(config: Placed, quiet: dict[str, Any]) -> None:
    if (config.device == "cuda" or config.replicas.gpus) and not torch.cuda.is_available():
        key = "device is cuda" if config.device == "cuda" else f"replicas.gpus is {config.replicas.gpus}"
        raise ConfigError(f"{key}, but this machine has no GPU: set device to cpu, or ray.address to a cluster's.")
    check_ray_folder()
    # Anyone who can reach Ray's ports can run code. From 2.60 on Ray asks for a token unless RAY_AUTH_MODE says
    # otherwise. With a token for this run alone, it doesn't create one in the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    # Replicas may share cores, but each must find a place.
    needed = math.ceil(config.replicas.bounds[1] * config.replicas.cpus)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with doing("Starting Ray"), loopback_alone():
        ray.init(address="local", num_cpus=max(cores, needed), include_dashboard=False, **quiet)


def lacking(config: Placed) -> str | None:
    """A sentence on the resources of a replica that no machine of the cluster has; None if one has them all."""
    needs = {"CPU": config.replicas.cpus, "GPU": gpus(config)}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= many for kind, many in needs.items()) for node in nodes):
        return None
    asked = " and ".join(f"{many:g} {kind}s" for kind, many in needs.items() if many)
    return f"No machine of the cluster has {asked} for a replica: set replicas.gpus, replicas.cpus or device."


def gpus(config: Placed) -> float:
    """GPUs per replica."""
    if config.replicas.gpus is not None:
        return config.replicas.gpus
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    return 1.0 if config.device == "cuda" or (config.device == "auto" and has_gpus) else 0.0


def check_gpu(given: Sequence[str], device: str) -> None:
    """Raise P2PZError if Ray has assigned a GPU that PyTorch doesn't find."""
    if given and device != "cpu" and not torch.cuda.is_available():
        raise P2PZError(f"{socket.gethostname()} has a GPU, but PyTorch finds none there: check its driver")
