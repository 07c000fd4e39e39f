"""What every metric is given, a few pairs of equal size, and what it gives back, columns of scores."""

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
    words: what is in the source and what should be in the edited picture, None where nothing says so.
    texts: sentences that say the same, where the collection has its own.
    mask: (H, W), the source's object; None where unknown.
    objects: (H, W) each, the objects that one and the same model finds in source and edited picture.
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
        """Each column it gives, and in a few words what makes the scores in it."""

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        """One value a pair in each column, None where there can be none. The pairs' pictures have one size."""


def unit(pictures: Sequence[Pixels]) -> Tensor:
    """(B, 3, H, W) float32 in 0 … 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) → `size`, bilinear and antialiased; as it is where it has that size."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def without_object(x: Tensor, masks: Sequence[Mask]) -> Tensor:
    """Pictures with the object black, as PnPInversion's evaluation leaves it out: compared with another picture that
    is masked alike, only the background can differ."""
    inside = torch.from_numpy(np.stack(masks))[:, None].to(x.device)
    return x.masked_fill(inside, 0.0)


def masked(pairs: Sequence[Pair]) -> tuple[list[int], list[Mask]]:
    """Of the pairs that have a mask which leaves something outside: their places, and those masks."""
    found = [(i, pair.mask) for i, pair in enumerate(pairs) if pair.mask is not None and not pair.mask.all()]
    return [i for i, _ in found], [mask for _, mask in found]


def spread(values: Tensor, places: Sequence[int], count: int) -> list[float | None]:
    """Values at their places among `count`, None elsewhere."""
    column: list[float | None] = [None] * count
    for place, value in zip(places, values.tolist(), strict=True):
        column[place] = value
    return column


def alike(pairs: Sequence[Pair], batch: int) -> Iterator[list[int]]:
    """The places of the pairs in batches of pictures that have one size, in the pairs' order."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        sizes.setdefault(pair.source.shape, []).append(i)
    for places in sizes.values():
        for start in range(0, len(places), batch):
            yield places[start : start + batch]
