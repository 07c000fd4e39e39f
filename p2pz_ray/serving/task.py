"""An engine's requests and answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """An edit by its name, or between two words. strength: None is the edit's own."""

    edit: str | tuple[str, str]
    strength: float | None = None


Edit = tuple[Part, ...]
"""Parts that are made together in one picture."""


@dataclass(frozen=True)
class Kind:
    """What the requests of a batch share: K edits per picture, and the settings; None is the configuration's."""

    edits: tuple[Edit, ...]
    masked: bool = False
    steps: int | None = None
    lambda_xa: float | None = None
    cfg: float | None = None
    negative: str | None = None


@dataclass(frozen=True)
class Task:
    """One picture, (H, W, 3). otherwise: the caption if `caption` is None and no model writes one. every: steps
    between previews; 0 is no previews."""

    kind: Kind
    pixels: Pixels
    caption: str | None
    otherwise: str
    seed: int
    mask: NDArray[np.float32] | None = None
    every: int = 0


@dataclass(frozen=True)
class Progress:
    """Step `step` of `of` is done. preview: (K, H, W, 3), the pictures as predicted at this step."""

    step: int
    of: int
    preview: Pixels | None = None


@dataclass(frozen=True)
class Answer:
    """The edits, (K, H, W, 3), the caption used, the steps and seconds of work, and the pictures in the batch."""

    pixels: Pixels
    caption: str | None
    steps: int
    seconds: float
    batch: int
