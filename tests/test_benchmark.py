"""What the measuring jobs print is measured, from any checkpoint folder and any collection with truth."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from p2pz_ray.mini.dataset import write_world

Job = Callable[[str], ModuleType]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "jobs")
    return importlib.import_module


def table(printed: str) -> dict[str, list[str]]:
    """A Markdown table's rows by their first cells."""
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    return {cells[0]: cells for cells in lines[2:]}


@pytest.mark.slow
def test_a_row_for_each_editor_with_its_ratio_evaluations_and_error(
    job: Job, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_world(str(tmp_path / "world"), 1, 0, ("cat2dog",))
    asked = ["--model", str(tiny_model), "--collection", world, "--images", "1", "--steps", "2"]
    assert job("benchmark").main([*asked, "--only", "10 steps", "10, guided 0.5", "--directions", "1", "2"]) == 0
    rows = table(capsys.readouterr().out)
    assert list(rows) == [
        "the source left as it is",
        "diffusers, 2 steps, one at a time",
        "ours, 10 steps, K = 1",
        "ours, 10 steps, K = 2",
        "ours, 10, guided 0.5, K = 1",
        "ours, 10, guided 0.5, K = 2",
    ]
    passes = {name: float(cells[3].split()[0]) for name, cells in rows.items() if name.startswith("ours")}
    # The inversion and the reference are shared by the K edits, and half of the guidance is left out.
    assert passes["ours, 10 steps, K = 2"] < passes["ours, 10 steps, K = 1"]
    assert passes["ours, 10, guided 0.5, K = 1"] < passes["ours, 10 steps, K = 1"]
    # Five steps of ten compare maps: inversion 10, reference 5, both halves of guidance 20.
    assert rows["ours, 10, guided 0.5, K = 1"][3].endswith(" = 35 + 5 ∇")
    assert rows["diffusers, 2 steps, one at a time"][3].endswith(" = 10 + 4 ∇")
    assert all(float(cells[5]) >= 0 for cells in rows.values())


def test_a_second_run_with_other_words_asks_for_no_inversion(
    job: Job, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = 3
    assert job("rerun").main(["--model", str(tiny_model), "--images", "2", "--steps", str(steps), "--rounds", "1"]) == 0
    rows = table(capsys.readouterr().out)
    first, cached, again = (int(cells[2]) for cells in rows.values())
    assert list(rows)[1:] == ["cat2fox, inversions from the cache", "cat2fox, inversions made again"]
    assert first == again == cached + steps


def test_the_gallery_shows_every_kind_of_edit_and_masks_keep_the_rest(
    job: Job, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gallery.png"
    assert job("gallery").main([str(out), "--model", str(tiny_model), "--count", "1", "--steps", "2"]) == 0
    assert "100% are the source's own" in capsys.readouterr().out
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (128, 9 * 132 - 4, 3)
    pictures = [sheet[:, 132 * i : 132 * i + 128] for i in range(9)]
    assert all(not np.array_equal(pictures[0], picture) for picture in pictures[1:])
