"""A task done once for a run, on a machine and device like a replica's."""

import sys
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from p2pz_ray.errors import P2PZError, first_line
from p2pz_ray.running.cluster import Placed, gpus, lacking
from p2pz_ray.running.crew import GIVEN_UP, UNPLACED

TICK = 5.0  # seconds


def run_errand(config: Placed, work: Callable[..., Any], *given: Any) -> Any:
    """The result of `work`, run where a replica of the configuration would run; again if its machine dies.

    Raises its P2PZErrors, and a P2PZError if it fails in another way or finds no machine.
    """
    wanted = config.replicas
    task = ray.remote(_with_threads).options(num_cpus=wanted.cpus, num_gpus=gpus(config))
    ref = task.remote(max(1, int(wanted.cpus)), work, *given)
    began, said = time.monotonic(), False
    while not ray.wait([ref], timeout=TICK)[0]:
        waited = time.monotonic() - began
        missing = lacking(config) if waited > UNPLACED else None
        if missing and waited > GIVEN_UP:
            raise P2PZError(f"{missing} None has come within {GIVEN_UP / 60:.0f} min.")
        if missing and not said:
            print(f"{missing} The run waits {GIVEN_UP / 60:.0f} min for one to be added.", file=sys.stderr)
            said = True
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, P2PZError):
            raise error.cause from None
        raise P2PZError(f"What the run needs beforehand can't be made: {first_line(error.cause)}.") from error
    except RayError as error:
        raise P2PZError(f"What the run needs beforehand can't be made: {first_line(error)}.") from error


def _with_threads(threads: int, work: Callable[..., Any], *given: Any) -> Any:
    torch.set_num_threads(threads)
    return work(*given)
