"""Pictures to try the miniature with: scenes of its world, drawn on request."""

import numpy as np

from p2pz_ray.mini.world import KINDS, caption, render, sample_scene
from p2pz_ray.serving.task import Pixels
from p2pz_ray.serving.web.refusal import RefusalError


def scene(kind: str, seed: int, side: int) -> tuple[Pixels, str]:
    """A scene with this kind of animal, (side, side, 3), and its caption. No training has seen it; the same seed gives
    the same scene. Raises RefusalError for an animal that the world doesn't have."""
    if kind not in KINDS:
        raise RefusalError(422, f"The world has no {kind[:40]!r}: choose one of {', '.join(KINDS)}.", "kind")
    rng = np.random.default_rng(seed)
    drawn = sample_scene(rng, held_out=True, kind=kind)
    return render(drawn, side)[0], caption(drawn, rng)
