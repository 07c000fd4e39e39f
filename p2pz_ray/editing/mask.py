"""Masks: where a picture may change, and during which noise levels.

A value is the share of the noise levels, counted from the clean end, during which a pixel may change. 0 is never, so
the source stays; 1 is always; in between the edit starts later and is weaker.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Mask = NDArray[np.bool_] | NDArray[np.float32]
BLACK, WHITE = 8, 247
"""Grey values up to 8 count as black and from 247 on as white, as JPEG may change them."""


def from_picture(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) grey → (H, W) shares."""
    grey = pixels.mean(axis=2)
    grey = np.where(grey <= BLACK, 0.0, np.where(grey >= WHITE, 255.0, grey))
    return (grey / 255).astype(np.float32)


def to_picture(mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) shares → (H, W, 3) grey."""
    return np.repeat((mask * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def cells_of(masks: NDArray[np.float32], factor: int) -> Tensor:
    """(B, K, H, W) → (B, K, h, w): for each latent cell, the largest value of its pixels."""
    return F.max_pool2d(torch.from_numpy(np.ascontiguousarray(masks)), factor)


def free(cells: Tensor, step: int, steps: int) -> Tensor:
    """Which cells may change at a step, counted from the noisiest: the last `share · steps` of them, rounded."""
    return (cells * steps).round() >= steps - step


def blended(
    edited: NDArray[np.uint8], sources: NDArray[np.uint8], masks: NDArray[np.float32], feather: int = 0
) -> NDArray[np.uint8]:
    """(B, K, H, W, 3) edits over their (B, H, W, 3) sources: where a mask is 0 exactly the source's pixels, `feather`
    pixels inside of it and beyond exactly the edit's, and a mixture of both between."""
    inside = torch.from_numpy(masks > 0).float()
    alpha = inside.clone()
    for _ in range(feather):
        inside = -F.max_pool2d(-inside, 3, stride=1, padding=1)
        alpha += inside
    return mixed(edited, sources[:, None], (alpha / (feather + 1)).numpy())


def mixed(edited: NDArray[np.uint8], sources: NDArray[np.uint8], shares: Mask) -> NDArray[np.uint8]:
    """(…, H, W, 3) pixels between the sources' at 0 and the edits' at 1."""
    before = sources.astype(np.float32)
    made = before + shares[..., None].astype(np.float32) * (edited - before)
    return np.asarray(made.round().astype(np.uint8))
