"""All uses of Ray's private interfaces, as of Ray 2.60; later versions may change them."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants, services

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""An environment variable that is set in the processes of a submitted job."""


@contextmanager
def loopback_alone() -> Iterator[None]:
    """Within, a Ray that is started listens on the loopback address only, and such a Ray can be connected to. Ray
    itself would use the machine's outward address, except where it doesn't support clusters of several machines, as by
    default on macOS and Windows."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def outward_address() -> str:
    """This machine's IP address as other machines see it."""
    return str(services.node_ip_address_from_perspective(None))


def started_here() -> str | None:
    """HOST:PORT of the latest Ray that `ray start` started on this machine."""
    found = services.find_bootstrap_address(None)
    return str(found) if found else None
