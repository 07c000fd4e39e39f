"""Means and shares over pairs, with 95 % confidence intervals.

Several edits of one image are not independent: a difficult picture is difficult under each of them. So where the images
are given, the intervals are computed from one deviation per image (clustered by image).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # the normal distribution's quantile for 95 %
# The same of Student's t with 1, 2, … 29 degrees of freedom.
_T = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139),
    *(2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963),
    *(2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230),
)


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` pairs and its 95 % interval; None for the ends if there is only one image."""

    mean: float
    low: float | None
    high: float | None
    count: int


def mean(values: NDArray[np.float64], images: NDArray[np.intp] | None = None) -> Estimate | None:
    """The mean, with Student's t over the images; None for no values. images: the image of each value; None means that
    each has its own."""
    if not len(values):
        return None
    middle, off = _off_by(values, images)
    return estimate(middle, len(values), len(off), float(off @ off))


def estimate(middle: float, count: int, images: int, off: float) -> Estimate:
    """A mean with Student's t over the images. off: Σ over images of the squared sum of their values' deviations."""
    if images == 1:
        return Estimate(middle, None, None, count)
    freedom = images - 1
    half = _t(freedom) * math.sqrt(images / freedom * off) / count
    return Estimate(middle, middle - half, middle + half, count)


def share(hits: int, count: int, worth: float | None = None) -> Estimate | None:
    """A share with Wilson's interval, which is valid for few pairs and near 0 and 1 too; None for no pairs.

    worth: the effective number of independent pairs; None if all are independent.
    """
    if not count:
        return None
    p, n = hits / count, float(count if worth is None else worth)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half), count)


def share_estimate(p: float, count: int, images: int, off: float) -> Estimate | None:
    """The counterpart of `estimate` for a share."""
    # If all values are equal, nothing shows how much an image's edits differ: count each image once.
    worth = count**2 * p * (1 - p) / off if 0 < p < 1 and off > 0 else images
    return share(round(p * count), count, min(worth, count))


def _off_by(values: NDArray[np.float64], images: NDArray[np.intp] | None) -> tuple[float, NDArray[np.float64]]:
    """The mean, and for each image the sum of its values' deviations from it."""
    middle = float(values.mean())
    off: NDArray[np.float64] = values - middle
    if images is None:
        return middle, off
    return middle, np.bincount(np.unique(images, return_inverse=True)[1], off).astype(np.float64)


def _t(freedom: int) -> float:
    """Student's t quantile for 95 %; from 30 degrees of freedom on, the first term of its expansion."""
    return _T[freedom - 1] if freedom <= len(_T) else Z + (Z**3 + Z) / (4 * freedom)
