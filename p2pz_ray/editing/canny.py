"""Edges of a picture, white on black (Canny 1986), as ControlNets and adapters for edges were trained on."""

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 100.0, 200.0
"""Thresholds of the gradient, of pixel values 0 … 255: those that the published checkpoints for edges were shown."""


def edges(picture: NDArray[np.uint8], low: float = LOW, high: float = HIGH) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 → (H, W, 3) uint8: one pixel wide where the gradient is steepest across itself and above `low`,
    and connected to where it is above `high`."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    padded = np.pad(grey, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx, dy = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    size = np.abs(dx) + np.abs(dy)

    # Of each pixel the two neighbours across the edge, in one of four directions.
    around = np.pad(size, 1)
    near = {
        (v, u): around[1 + v : 1 + v + size.shape[0], 1 + u : 1 + u + size.shape[1]]
        for v in (-1, 0, 1)
        for u in (-1, 0, 1)
    }
    flat, steep = np.abs(dy) <= 0.4142 * np.abs(dx), np.abs(dy) >= 2.4142 * np.abs(dx)
    same = dx * dy > 0
    before = np.select([flat, steep, same], [near[0, -1], near[-1, 0], near[-1, -1]], near[-1, 1])
    after = np.select([flat, steep, same], [near[0, 1], near[1, 0], near[1, 1]], near[1, -1])
    thin = (size > before) & (size >= after)

    weak, strong = thin & (size > low), thin & (size > high)
    while True:
        wider = weak & widened(strong)
        if (wider == strong).all():
            break
        strong = wider
    return np.repeat(strong[..., None], 3, axis=2).astype(np.uint8) * 255


def widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and every pixel that touches it."""
    high = np.pad(mask, ((1, 1), (0, 0)))
    tall = high[:-2] | high[1:-1] | high[2:]
    wide = np.pad(tall, ((0, 0), (1, 1)))
    return wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
