"""Differences of pixels: mean squared error, PSNR and SSIM, of whole pictures and of their backgrounds.

    background_*: with the source's object black in both pictures, as in PnPInversion's evaluation

SSIM is Wang et al.'s (2004): a Gaussian window of 11 pixels with σ 1.5, K₁ 0.01, K₂ 0.03, the mean over all windows
that lie inside the picture and over the three channels.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from p2pz_ray.evaluation.metrics.metric import Pair, Scores, masked, spread, unit, without_object

WINDOW, SIGMA = 11, 1.5
NO_DIFFERENCE = 100.0
"""PSNR in decibels of equal pictures: infinity would spoil every mean."""


class PixelDifference:
    """mse (0 … 1), psnr (dB, equal pictures 100) and ssim of edited pictures against their sources."""

    @property
    def columns(self) -> Mapping[str, str]:
        names = {
            "mse": "mean squared error, 0 … 1",
            "psnr": "PSNR in dB, at most 100",
            "ssim": "SSIM, window 11, σ 1.5",
        }
        outside = {f"background_{name}": f"{made}, the source's object black in both" for name, made in names.items()}
        return {**names, **outside}

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        x, y = unit([pair.source for pair in pairs]), unit([pair.edited for pair in pairs])
        scores = {name: spread(values, range(len(pairs)), len(pairs)) for name, values in _differences(x, y).items()}
        places, masks = masked(pairs)
        if places:
            outside = _differences(without_object(x[places], masks), without_object(y[places], masks))
            return scores | {f"background_{name}": spread(v, places, len(pairs)) for name, v in outside.items()}
        return scores | {f"background_{name}": [None] * len(pairs) for name in ("mse", "psnr", "ssim")}


def _differences(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    error = (x - y).square().mean((1, 2, 3))
    return {"mse": error, "psnr": (-10 * torch.log10(error)).clamp(max=NO_DIFFERENCE), "ssim": ssim(x, y)}


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B, 3, H, W) in 0 … 1, at least 11 pixels a side → (B,). 1 for equal pictures; NaN for smaller ones."""
    if min(x.shape[-2:]) < WINDOW:
        return x.new_full((len(x),), torch.nan)
    at = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    row = torch.exp(-at.square() / (2 * SIGMA**2))
    row = row / row.sum()
    channels = x.shape[1]

    def smooth(z: Tensor) -> Tensor:
        z = F.conv2d(z, row.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(z, row.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x.square(), smooth(y * y) - mean_y.square()
    cov = smooth(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return (likeness / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))).mean((1, 2, 3))
