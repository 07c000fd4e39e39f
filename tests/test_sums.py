"""What the scores of a run come to is the same however its partitions are cut and in whatever order they come."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from p2pz_ray.evaluation.interval import Estimate, mean, share_estimate
from p2pz_ray.evaluation.sums import BINS, CLIP_ACCURACY, EXTREMES, Histogram, Sums

RNG = np.random.default_rng(0)
IMAGES, EDITS = 40, ("dog", "fox", "owl")
VALUES = {
    "clip_source": RNG.normal(20, 3, IMAGES * 3),
    "clip_target": RNG.normal(21, 3, IMAGES * 3),
    "structure": RNG.gamma(2, 1e-3, IMAGES * 3) + 1e4,  # far from 0 for how much they differ
    "judge_target": (RNG.random(IMAGES * 3) < 0.7).astype(float),
}
VALUES["clip_target"][5] = VALUES["structure"][7] = np.nan


def part(images: range) -> Sums:
    rows = slice(images.start * 3, images.stop * 3)
    columns = {"id": [f"{i:03}" for i in images for _ in EDITS], "edit": list(EDITS) * len(images)}
    metadata = {f"score:{name}": f"what makes {name}" for name in VALUES} | {"p2pz:unreadable": "1"}
    table = pa.table(columns | {name: values[rows] for name, values in VALUES.items()})
    return Sums.of(f"from {images.start}", table.replace_schema_metadata(metadata))


def share_of(hits: np.ndarray, images: np.ndarray) -> Estimate | None:
    """The share of hits of all images together."""
    off = np.bincount(np.unique(images, return_inverse=True)[1], hits - hits.mean())
    return share_estimate(hits.mean(), len(hits), len(off), float(off @ off))


def test_partitions_in_any_order_come_to_the_same_to_the_last_bit() -> None:
    found = []
    for order in itertools.permutations([range(0, 1), range(1, 9), range(9, 30), range(30, 40)]):
        sums = Sums()
        for images in order:
            sums.add(part(images))
        found.append(sums)
    assert all(sums == found[0] for sums in found)
    assert (found[0].rows, found[0].partitions, found[0].unreadable) == (120, 4, 4)


@pytest.mark.parametrize("edit", [None, "fox"])
def test_means_and_intervals_are_those_of_all_values_together(edit: str | None) -> None:
    sums = Sums()
    for start in range(0, IMAGES, 8):
        sums.add(part(range(start, start + 8)))
    found = sums.estimates(edit)
    assert list(found) == [CLIP_ACCURACY, *VALUES]
    rows = np.arange(IMAGES * 3) if edit is None else np.arange(1, IMAGES * 3, 3)
    for name, values in VALUES.items():
        known = rows[~np.isnan(values[rows])]
        make = share_of if name == "judge_target" else mean
        right = make(values[known] > 0 if make is share_of else values[known], known // 3)  # type: ignore[operator]
        assert right is not None
        own = found[name]
        assert (own.count, own.mean, own.low, own.high) == pytest.approx(
            (right.count, right.mean, right.low, right.high), rel=1e-9
        )
    before, after = VALUES["clip_source"][rows], VALUES["clip_target"][rows]
    known = ~np.isnan(after)
    right = share_of((after > before)[known], rows[known] // 3)
    assert right is not None
    assert (found[CLIP_ACCURACY].low, found[CLIP_ACCURACY].count) == (pytest.approx(right.low), right.count)


def test_the_extremes_are_those_of_all_and_say_where_they_are() -> None:
    sums = part(range(0, 20))
    sums.add(part(range(20, 40)))
    values = VALUES["structure"]
    ranked = np.argsort(values)[: IMAGES * 3 - 1]  # NaN last
    for kept, right in ((sums.lowest, ranked[:EXTREMES]), (sums.highest, ranked[-EXTREMES:])):
        assert [(pair.value, pair.id, pair.edit) for pair in kept["structure"]] == [
            (values[row], f"{row // 3:03}", EDITS[row % 3]) for row in right
        ]
        assert all(pair.partition == ("from 0" if pair.id < "020" else "from 20") for pair in kept["structure"])
    assert len(sums.extremes()) == 2 * EXTREMES * len(VALUES)


@pytest.mark.parametrize(
    "values",
    [RNG.normal(0, 1, 5000), RNG.lognormal(0, 4, 5000), np.full(9, 3.7), np.array([1e-300, 1.0]), np.array([0.0])],
    ids=["around 0", "over many powers", "all alike", "tiny", "zero"],
)
def test_a_histogram_keeps_within_its_bins_and_no_value_leaves_its_own(values: np.ndarray) -> None:
    whole = Histogram.of(values)
    parts = [Histogram.of(some) for some in np.array_split(values, 7)]
    for order in (parts, parts[::-1]):
        merged = Histogram()
        for each in order:
            merged.add(each)
        assert merged == whole
    middles, many = whole.bins()
    assert many.sum() == len(values)
    assert len(middles) <= BINS
    width = 2.0**whole.exponent
    assert np.abs(np.sort(values) - np.repeat(middles, many.astype(int))).max() <= width / 2 * (1 + 1e-9)
    assert len(set(values)) == 1 or np.ptp(values) >= width * (BINS // 2 - 1)
