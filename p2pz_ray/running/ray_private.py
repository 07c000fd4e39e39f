"""All that is used of Ray and that Ray calls private. Seen in Ray 2.60; a later version may call it otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants, services

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable that a submitted job's processes have."""


@contextmanager
def loopback_alone() -> Iterator[None]:
    """A Ray started within listens where no other machine can call, and one that listens so can be connected to. Ray
    itself would take this machine's outward address, save where it takes a cluster of several machines for impossible,
    as by default on macOS and Windows."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def outward_address() -> str:
    """This machine's IP address as other machines see it."""
    return str(services.node_ip_address_from_perspective(None))


def started_here() -> str | None:
    """HOST:PORT of the Ray that `ray start` started last on this machine."""
    found = services.find_bootstrap_address(None)
    return str(found) if found else None
