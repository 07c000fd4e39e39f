"""A learned distance of backgrounds: LPIPS, or ST-LPIPS under its own name, with the source's object black in both."""

from collections.abc import Mapping, Sequence

import torch

from p2pz_ray.evaluation.metrics.metric import Pair, Scores, masked, resized, spread, unit, without_object
from p2pz_ray.perceptual import Perceptual, load_perceptual

SMALLEST = 64
"""Smallest side in pixels that the networks accept; smaller pictures are enlarged."""


class BackgroundDistance:
    """background_lpips, or background_stlpips, which is not comparable with it.

    Raises ConfigError if the network is not on this machine.
    """

    def __init__(self, name: Perceptual, device: str = "cpu") -> None:
        self.column = f"background_{name.partition('-')[0]}"
        self.name, self.device, self._distance = name, device, load_perceptual(name).to(device)

    @property
    def columns(self) -> Mapping[str, str]:
        return {self.column: f"{self.name}, the source's object black in both"}

    @torch.no_grad()
    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        places, masks = masked(pairs)
        if not places:
            return {self.column: [None] * len(pairs)}
        sides = ([pairs[i].source for i in places], [pairs[i].edited for i in places])
        x, y = (without_object(unit(pictures), masks).to(self.device) * 2 - 1 for pictures in sides)
        scale = SMALLEST / min(x.shape[-2:])
        if scale > 1:
            size = (round(x.shape[-2] * scale), round(x.shape[-1] * scale))
            x, y = resized(x, size), resized(y, size)
        return {self.column: spread(self._distance(x, y), places, len(pairs))}
