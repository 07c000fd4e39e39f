"""What an engine is asked, and what it answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """An edit by its name, or between two words. Strength None is the edit's own."""

    edit: str | tuple[str, str]
    strength: float | None = None


Edit = tuple[Part, ...]
"""Parts that are made at once, in one picture."""


@dataclass(frozen=True)
class Kind:
    """What requests that an engine answers together have in common: K edits of each picture, and the settings, None
    where they are the configuration's."""

    edits: tuple[Edit, ...]
    masked: bool = False
    steps: int | None = None
    lambda_xa: float | None = None
    cfg: float | None = None
    negative: str | None = None


@dataclass(frozen=True)
class Task:
    """One picture, (H, W, 3). A picture without a caption is captioned by a model where there is one, else it is
    `otherwise`. With `every`, each so many-th step shows what the pictures will be."""

    kind: Kind
    pixels: Pixels
    caption: str | None
    otherwise: str
    seed: int
    mask: NDArray[np.float32] | None = None
    every: int = 0


@dataclass(frozen=True)
class Progress:
    """Step `step` of `of` is done; `preview`, (K, H, W, 3), is what the pictures will be as far as can be seen."""

    step: int
    of: int
    preview: Pixels | None = None


@dataclass(frozen=True)
class Answer:
    """The edits, (K, H, W, 3), the caption in use, the steps and seconds of work, and how many pictures shared it."""

    pixels: Pixels
    caption: str | None
    steps: int
    seconds: float
    batch: int
