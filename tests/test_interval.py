"""Intervals hold the true value as often as they say: for few pairs, for shares, for several edits of an image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_run import examples, pair, write_run

from p2pz_ray.commit.run import Run
from p2pz_ray.evaluation.interval import Estimate, mean, share
from p2pz_ray.evaluation.scores import ScoreFolder
from p2pz_ray.evaluation.summary import sums_of
from p2pz_ray.evaluation.sums import Moments

ROUNDS = 1500


def inside(draw: Callable[[], Estimate | None], truth: float) -> float:
    """How often an interval holds the truth."""
    found = [draw() for _ in range(ROUNDS)]
    return sum(e is not None and None is not e.low <= truth <= e.high for e in found) / ROUNDS  # type: ignore[operator]


def share_of(hits: NDArray[np.bool_], images: NDArray[np.intp] | None = None) -> Estimate | None:
    """The share of hits; each is of its own image unless `images` are given."""
    return Moments.of(hits.astype(np.float64), np.arange(len(hits)) if images is None else images).estimate(True)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 16, 29, 31, 60])
def test_a_mean_of_few_pairs_is_as_sure_as_it_says(count: int) -> None:
    rng = np.random.default_rng(count)
    assert 0.935 < inside(lambda: mean(rng.normal(3.0, 2.0, count)), 3.0) < 0.965


@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_a_share_is_as_sure_as_it_says(truth: float) -> None:
    rng = np.random.default_rng(1)
    assert 0.92 < inside(lambda: share_of(rng.random(60) < truth), truth) < 0.985


@pytest.mark.parametrize("images", [6, 100])
def test_four_edits_of_an_image_are_not_four_images(images: int) -> None:
    rng = np.random.default_rng(2)
    own = np.repeat(np.arange(images), 4)

    def values() -> NDArray[np.float64]:
        return (rng.normal(0, 1, images)[:, None] + rng.normal(0, 0.5, (images, 4))).ravel()

    assert 0.93 < inside(lambda: mean(values(), own), 0.0) < 0.97
    assert inside(lambda: mean(values()), 0.0) < 0.85  # taken for as many images, they look surer than they are
    if images == 100:
        assert 0.93 < inside(lambda: share_of(values() > 0, own), 0.5) < 0.975
        assert inside(lambda: share_of(values() > 0), 0.5) < 0.85


def test_one_edit_an_image_is_as_without_images() -> None:
    values = np.random.default_rng(3).normal(0, 1, 20)
    one, other = mean(values), mean(values, np.arange(20)[::-1])
    assert one is not None
    assert other is not None
    assert (other.low, other.high) == pytest.approx((one.low, one.high))
    hits = share_of(values > 0)
    alone = share(int((values > 0).sum()), 20)
    assert hits is not None
    assert alone is not None
    assert (hits.low, hits.high) == pytest.approx((alone.low, alone.high))


def test_the_ends() -> None:
    assert mean(np.array([])) is share_of(np.array([], bool)) is None
    alone = mean(np.array([2.0, 3.0]), np.array([7, 7]))
    assert alone == Estimate(2.5, None, None, 2)
    five = share(5, 5)
    assert five is not None
    assert five.low is not None
    assert five.high == 1
    assert 0.5 < five.low < 0.6
    # Twenty edits of five images that all came out well say no more than five.
    assert share_of(np.ones(20, bool), np.repeat(np.arange(5), 4)) == Estimate(1.0, five.low, 1.0, 20)


def test_over_all_edits_a_run_counts_images_and_within_an_edit_pairs(tmp_path: Path) -> None:
    scenes = examples(6)
    pairs = [pair(one.id, one.picture(), one.picture("dog"), edit=edit) for one in scenes for edit in ("a", "b")]
    write_run(tmp_path, [pairs], edits=())
    run = Run(str(tmp_path))
    values = np.repeat(np.random.default_rng(4).normal(0, 1, 6), 2)
    keys = [(row["id"], row["edit"]) for row in pairs]
    made = {"structure_x": "somebody", "judge_target": "a judge"}
    judged = [float(value > 0) for value in values]
    scores = {"structure_x": list(values), "judge_target": judged}
    ScoreFolder(run.store).write(run.manifests[0], "f", keys, scores, made, 0)
    sums = sums_of(run)
    for name in made:
        of_all, of_one = sums.estimates()[name], sums.estimates("a")[name]
        assert (of_all.count, of_one.count) == (12, 6)
        assert (of_all.low, of_all.high) == pytest.approx((of_one.low, of_one.high))
