"""The training as a job: from what Python gives as a configuration to a student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pz_ray.config.given import Given, configuration
from p2pz_ray.patience import doing

if TYPE_CHECKING:
    from p2pz_ray.distill.run import Distilled


def distill(config: Given, *settings: str) -> Distilled:
    """Train a student, or resume a training; prints the progress. Raises as `distill.run.distill` does."""
    from p2pz_ray.config.distill import DistillConfig

    parsed = configuration(config, settings, DistillConfig)
    with doing("Loading PyTorch"):
        from p2pz_ray.distill.run import distill as run  # for a configuration that is right

    return run(parsed)
