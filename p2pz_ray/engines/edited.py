"""An engine's input, decoded pictures, and its output, edited ones."""

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
    """The caption used for a picture and its edits, (K, H, W, 3) uint8; or a sentence on why there are none.

    `faults` has for each edit what is wrong with it, or None; it is empty if all are fine. `masks` (K, H, W) are the
    shares that each edit was confined to, None if not confined. `conditions` are the pictures (H, W, 3) that conditions
    showed to the UNet. `flags` has for each whether a safety checker flagged
    it; it is empty without a checker.
    """

    caption: str | None
    pixels: NDArray[np.uint8] | None
    error: str | None = None
    faults: tuple[str | None, ...] = ()
    masks: NDArray[np.float32] | None = None
    conditions: tuple[NDArray[np.uint8], ...] = ()
    flags: tuple[bool, ...] = ()


class Engine(Protocol):
    """Edits pictures, partition by partition."""

    def begin(self, partition: Partition) -> None:
        """The following pictures belong to this partition."""

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        """Edit pictures in one batch, each as if alone. Errors of the model and the device are not caught."""
        ...

    def end(self) -> None:
        """The partition has no more pictures."""
