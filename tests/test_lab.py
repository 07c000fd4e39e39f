"""The lab measures against the exact truth, scene by scene, on scenes that nothing was trained on."""

import sys

import numpy as np
import pytest

from p2pz_ray.editing import GuidanceSettings, InversionSettings
from p2pz_ray.lab import __main__ as command
from p2pz_ray.lab import bench as benches
from p2pz_ray.lab.bench import TASKS, Bench, Outcome, Task, change, swapped_word
from p2pz_ray.lab.figures import PAPER, changed, measured
from p2pz_ray.lab.parts import PARTS, Part, outcome_of
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.judge import FOLDER


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(MODEL, FOLDER, count=3, seed=5)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_of_held_out_scenes_that_the_edit_begins_with(name: str) -> None:
    task = Task(name, 4, 11)
    assert all(scene.held_out and task.edit.fits(scene) for scene in task.scenes)
    assert task.captions == Task(name, 4, 11).captions
    assert not np.array_equal(task.sources, Task(name, 4, 12).sources)


def test_the_truth_has_no_error_and_the_source_errs_in_the_animals_alone(bench: Bench) -> None:
    task = bench.task("cat2dog")
    truth, source = bench.outcome(task, task.truths), bench.outcome(task, task.sources)
    assert truth.hits.all()
    assert not truth.error.any()
    assert not source.hits.any()
    assert (source.error > 0).all()
    assert not source.background.any()
    assert np.isnan(bench.outcome(bench.task("sketch2oil"), bench.task("sketch2oil").sources).background).all()
    assert measured(bench, bench.task("sketch2oil"), source)[-1] == ""


def test_a_change_is_of_pairs_and_relative_to_the_baseline() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.uniform(1, 100, 400)
    middle, half = change(0.9 * baseline, baseline)
    assert middle == pytest.approx(-0.1)
    assert half < 0.01  # pair by pair, where the two means' own intervals would be far wider
    hit = sum(
        abs(shift) <= half for shift, half in (change(one + rng.normal(0, 1, 50), one) for one in [baseline[:50]] * 400)
    )
    assert 360 <= hit <= 396


def test_a_swapped_word_is_the_edits(bench: Bench) -> None:
    edit = bench.task("cat2dog").edit
    assert swapped_word("a photo of a black cat at night", edit) == "a photo of a black dog at night"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_can_be_laid_over_the_papers_settings(part: Part) -> None:
    InversionSettings(**{**PAPER["inversion"], **part.inversion})
    GuidanceSettings(**{**PAPER["guidance"], **part.guidance})


@pytest.mark.slow
def test_variants_differ_and_rows_are_as_if_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"inversion": {"steps": 2, "regularization": "none"}, "guidance": {"cfg": 3.0}}
    found = {
        name: outcome_of(bench, "cat2dog", part, shared)
        for name, part in {
            "whole": Part("", guidance={"lambda_xa": 1.0}),
            "free": Part("", guidance={"lambda_xa": 0.0}),
            "swap": Part("", guidance={"lambda_xa": 0.0}, swap=True),
        }.items()
    }
    errors = [tuple(outcome.error) for outcome in found.values()]
    assert len(set(errors)) == 3
    monkeypatch.setitem(benches.BATCH, bench.device, 2)
    bench._inversions.clear()
    parted = outcome_of(bench, "cat2dog", Part("", guidance={"lambda_xa": 1.0}), shared)
    np.testing.assert_allclose(parted.error, found["whole"].error, rtol=1e-3)
    assert len(changed(bench.task("cat2dog"), found["whole"], found["free"])) == 2
    assert len({part.name for part in PARTS}) == len(PARTS)


@pytest.mark.slow
def test_tables_are_printed_and_pictures_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path
) -> None:
    monkeypatch.setattr("p2pz_ray.lab.figures.TASKS", ("cat2dog",))
    monkeypatch.setattr(benches, "SENTENCES", 20)
    few = ["lab", "--count", "2", "--drawing", str(tmp_path / "sheet.png")]
    monkeypatch.setattr(sys, "argv", [*few, "vae", "clip", "edits", "sheet"])
    command.main()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()]
    assert any(row[:1] == ["all"] and float(row[1]) > 15 for row in rows)
    assert {row[0] for row in rows if len(row) == 2} >= {"kind", "coat", "view", "hat"}
    left = next(row for row in rows if row[:2] == ["cat2dog", "the source left as it is"])
    assert left[5] == "0.0000"
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_an_outcome_of_no_change_is_no_change() -> None:
    one = Outcome(np.ones(3, bool), np.array([0.1, 0.2, 0.3]), np.array([0.01, 0.02, 0.03]))
    assert changed(Task("cat2dog", 3, 1), one, one) == ["+0.0 ± 0.0 %"] * 2
