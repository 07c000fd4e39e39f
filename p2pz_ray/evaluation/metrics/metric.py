"""The interface of a metric: from a few pairs of equal size to columns of scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Scores = dict[str, list[float | None]]


@dataclass(frozen=True)
class Pair:
    """A pair to score.

    source, edited: (H, W, 3) uint8, both of the same size.
    words: the object in the source, and the one that should be in the edited picture; None if unknown.
    texts: sentences that describe the two pictures, if the collection has them.
    mask: (H, W), the source's object; None if unknown.
    objects: (H, W) each, the objects that one model finds in source and edited picture.
    """

    id: str
    edit: str
    source: Pixels
    edited: Pixels
    words: tuple[str, str] | None = None
    texts: tuple[str, str] | None = None
    mask: Mask | None = None
    objects: tuple[Mask, Mask] | None = None


class Metric(Protocol):
    """A metric of pairs. A pair's scores depend on that pair alone, not on those beside it."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Each column, and in a few words how its scores are computed."""

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        """A value per pair in each column, None where there is none. All pictures must have the same size."""


def unit(pictures: Sequence[Pixels]) -> Tensor:
    """(B, 3, H, W) float32 in 0 … 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) → `size`, bilinear and antialiased; unchanged if it has that size."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def without_object(x: Tensor, masks: Sequence[Mask]) -> Tensor:
    """Pictures with the object painted black, as in PnPInversion's evaluation. Two pictures with the same mask then
    differ in the background only."""
    inside = torch.from_numpy(np.stack(masks))[:, None].to(x.device)
    return x.masked_fill(inside, 0.0)


def masked(pairs: Sequence[Pair]) -> tuple[list[int], list[Mask]]:
    """The pairs whose mask leaves some background: their indices and masks."""
    found = [(i, pair.mask) for i, pair in enumerate(pairs) if pair.mask is not None and not pair.mask.all()]
    return [i for i, _ in found], [mask for _, mask in found]


def spread(values: Tensor, places: Sequence[int], count: int) -> list[float | None]:
    """A list of `count` values: these at their indices, None elsewhere."""
    column: list[float | None] = [None] * count
    for place, value in zip(places, values.tolist(), strict=True):
        column[place] = value
    return column


def alike(pairs: Sequence[Pair], batch: int) -> Iterator[list[int]]:
    """The indices of the pairs in batches of equal picture size, in order."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        sizes.setdefault(pair.source.shape, []).append(i)
    for places in sizes.values():
        for start in range(0, len(places), batch):
            yield places[start : start + batch]
