"""`p2pz serve`: the service on this machine, or on a cluster, until it is stopped."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2pz_ray.config.processes import Processes, RayConfig
from p2pz_ray.config.section import Device
from p2pz_ray.config.serve import ServeConfig
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.serving.prepare import prepare

NAME = "p2pz"


@dataclass(frozen=True)
class Placement:
    """The resources that the service needs from Ray: one process with the CPUs of all engines."""

    ray: RayConfig
    device: Device
    replicas: Processes


def serve(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM; prints the address. Raises ConfigError for a wrong configuration, before Ray
    starts, and P2PZError where the service doesn't come up."""
    with serving(config) as address:
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        print(f"Serving at {address}. Press Ctrl-C to stop.", flush=True)
        stopped.wait()
        print("Stopping.", flush=True)


@contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """Run the service for a `with` block; yields its address. `connected` starts or joins Ray."""
    offer = prepare(config)
    config = offer.config
    _check_port(config.host, config.port)
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    import ray
    from ray import serve as ray_serve

    from p2pz_ray.running.cluster import connected
    from p2pz_ray.serving.deployment import bound

    with connected(_placement(config, bool(offer.students))):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray_serve.start(proxy_location="HeadOnly", http_options={"host": config.host.strip("[]"), "port": config.port})
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        try:
            ray_serve.run(bound(offer, gpus), name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise P2PZError(f"The service did not come up: {first_line(error)}.") from error
        try:
            yield f"http://{config.host}:{config.port}"
        finally:
            ray_serve.delete(NAME)  # lets replicas finish their work; Serve itself ends with Ray


def _placement(config: ServeConfig, students: bool) -> Placement:
    cpus = config.replicas.bounds[1] * config.replicas.cpus
    if students:
        cpus += config.student_replicas.bounds[1] * config.student_replicas.cpus
    return Placement(config.ray, config.device, Processes(count=1, cpus=cpus, gpus=config.replicas.gpus))


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"The service can't listen on {host}:{port} ({first_line(error)}): set port or host."
        ) from error
