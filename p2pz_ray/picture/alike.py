"""Near duplicates among pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Alike:
    """Remembers pictures as 8×8 thumbnails. Two are duplicates if they differ by less than `levels` grey levels on
    average; 0 turns this off."""

    def __init__(self, levels: float) -> None:
        self._levels = levels
        self._by_mean: dict[int, list[NDArray[np.float32]]] = {}

    def seen(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether a duplicate of (H, W, 3) `pixels` was seen before; if not, they are remembered."""
        if not self._levels:
            return False
        thumbnail = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BOX), np.float32)
        place = int(thumbnail.mean() / self._levels)  # duplicates have nearly the same mean
        near: Iterator[NDArray[np.float32]] = (
            other for key in (place - 1, place, place + 1) for other in self._by_mean.get(key, ())
        )
        if any(float(np.abs(thumbnail - other).mean()) < self._levels for other in near):
            return True
        self._by_mean.setdefault(place, []).append(thumbnail)
        return False
