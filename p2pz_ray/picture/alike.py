"""Near duplicates among pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Alike:
    """What was seen: 8×8 thumbnails that differ by less than `levels` grey levels on average are one; 0 is none."""

    def __init__(self, levels: float) -> None:
        self._levels = levels
        self._by_mean: dict[int, list[NDArray[np.float32]]] = {}

    def seen(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether one like (H, W, 3) `pixels` was shown before; if not, it counts from now on."""
        if not self._levels:
            return False
        thumbnail = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BOX), np.float32)
        place = int(thumbnail.mean() / self._levels)  # what differs little differs little in its mean
        near: Iterator[NDArray[np.float32]] = (
            other for key in (place - 1, place, place + 1) for other in self._by_mean.get(key, ())
        )
        if any(float(np.abs(thumbnail - other).mean()) < self._levels for other in near):
            return True
        self._by_mean.setdefault(place, []).append(thumbnail)
        return False
