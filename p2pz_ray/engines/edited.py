"""What an engine is given, decoded pictures, and what it gives back, edited ones."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.collection.partition import Partition


@dataclass(frozen=True)
class Picture:
    """One decoded image, (H, W, 3) uint8, number `row` of its partition; its mask, (H, W) shares, where
    there are masks; and its pictures of the columns that conditions name, (H, W, 3) uint8."""

    row: int
    id: str
    pixels: NDArray[np.uint8]
    caption: str | None
    mask: NDArray[np.float32] | None = None
    conditions: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True)
class Edited:
    """A picture's caption in use and its edits, (K, H, W, 3) uint8; or the sentence that says why there are none.

    `faults` say of each edit why it is no picture, None where it is one; empty where all are. `masks` (K, H, W) are the
    shares that each edit was confined to, None where nothing confined it. `flags` say of each whether a safety checker
    flagged it; empty where none looked.
    """

    caption: str | None
    pixels: NDArray[np.uint8] | None
    error: str | None = None
    faults: tuple[str | None, ...] = ()
    masks: NDArray[np.float32] | None = None
    flags: tuple[bool, ...] = ()


class Engine(Protocol):
    """Edits pictures, partition by partition."""

    def begin(self, partition: Partition) -> None:
        """The pictures that follow are this partition's."""

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        """Edit pictures together, each as if alone. May raise what the model and the device raise."""
        ...

    def end(self) -> None:
        """The partition has no more pictures."""
