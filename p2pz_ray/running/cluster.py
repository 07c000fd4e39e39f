"""Where Ray is: a cluster that an address names, or one started on this machine for the time of a run."""

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
    """A job's configuration, as far as it says where the job runs."""

    @property
    def ray(self) -> RayConfig: ...
    @property
    def device(self) -> Device: ...
    @property
    def replicas(self) -> Processes: ...


@contextmanager
def connected(config: Placed) -> Iterator[None]:
    """Ray, for a `with` block: the one this process is connected to already (and stays connected to), the cluster
    of `ray.address` or of RAY_ADDRESS, or one of this machine's own that ends with the block.

    Raises ConfigError where no cluster answers at the address.
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
    """This very package for the cluster's replicas, whatever version of it they may have, or none. Inside a submitted
    job the job's own environment has it already."""
    return {} if JOB_VARIABLE in os.environ else {"py_modules": [str(Path(__file__).parents[1])]}


def _check_reachable(address: str, named: str) -> None:
    """Ray itself would wait ten minutes for a head node that isn't there."""
    place = _host_and_port(address)
    if place is None:
        return  # "auto", which Ray answers at once
    try:
        _call(*place)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"There is no Ray cluster at {address} ({first_line(error)}): check {named}.") from error


def _on_loopback_alone(address: str) -> bool:
    """Whether a Ray on this machine can be called at its loopback address alone. Ray's client would call its outward
    address for ten minutes."""
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
    # Who may call Ray's ports may run code. From 2.60 Ray asks for a token unless RAY_AUTH_MODE says otherwise; given
    # one of this run's own, it leaves none behind in the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    # Replicas may share cores, but each must find a place.
    needed = math.ceil(config.replicas.bounds[1] * config.replicas.cpus)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with doing("Starting Ray"), loopback_alone():
        ray.init(address="local", num_cpus=max(cores, needed), include_dashboard=False, **quiet)


def lacking(config: Placed) -> str | None:
    """What no machine of the cluster has of what a replica asks for, as a sentence; None where one has all of it."""
    needs = {"CPU": config.replicas.cpus, "GPU": gpus(config)}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= many for kind, many in needs.items()) for node in nodes):
        return None
    asked = " and ".join(f"{many:g} {kind}s" for kind, many in needs.items() if many)
    return f"No machine of the cluster has {asked} for a replica: set replicas.gpus, replicas.cpus or device."


def gpus(config: Placed) -> float:
    """GPUs of a replica."""
    if config.replicas.gpus is not None:
        return config.replicas.gpus
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    return 1.0 if config.device == "cuda" or (config.device == "auto" and has_gpus) else 0.0


def check_gpu(given: Sequence[str], device: str) -> None:
    """Raise P2PZError where Ray has given a GPU that PyTorch doesn't find."""
    if given and device != "cpu" and not torch.cuda.is_available():
        raise P2PZError(f"{socket.gethostname()} has a GPU, but PyTorch finds none there: check its driver")
