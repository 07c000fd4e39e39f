"""`p2pz serve`: the service on this machine, or on a cluster, until it is stopped."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2pz_ray.config import Device, Processes, RayConfig
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.serving.config import ServeConfig
from p2pz_ray.serving.prepare import prepare

NAME = "p2pz"


@dataclass(frozen=True)
class Placed:
    """What Ray is told of room: that all engines find a place."""

    ray: RayConfig
    device: Device
    replicas: Processes


def serve(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM; prints where. Raises ConfigError, before Ray starts, for all that can be known to
    be wrong by then, P2PZError where the service doesn't come up."""
    with serving(config) as address:
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        print(f"Serving at {address}. Ctrl-C ends it.", flush=True)
        stopped.wait()
        print("Ending.", flush=True)


@contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """The service for a `with` block, which is given its address; Ray is as `connected` has it."""
    offer = prepare(config)
    config = offer.config
    _check_port(config.host, config.port)
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    import ray
    from ray import serve as ray_serve

    from p2pz_ray.running.cluster import connected
    from p2pz_ray.serving.deployment import bound

    with connected(_placed(config, bool(offer.students))):
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
            ray_serve.delete(NAME)  # lets replicas end what they have begun; Serve itself ends with Ray


def _placed(config: ServeConfig, students: bool) -> Placed:
    cpus = config.replicas.bounds[1] * config.replicas.cpus
    if students:
        cpus += config.student_replicas.bounds[1] * config.student_replicas.cpus
    return Placed(config.ray, config.device, Processes(count=1, cpus=cpus, gpus=config.replicas.gpus))


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port} can't be listened at ({first_line(error)}): set port or host.") from error
