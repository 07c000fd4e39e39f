"""The benchmark runs from any checkpoint folder and any collection with truth, and measures what it prints."""

import importlib.util
from pathlib import Path

import pytest

from p2pz_ray.mini.dataset import write_world


def test_a_row_for_each_editor_with_its_ratio_evaluations_and_error(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("benchmark", Path(__file__).parents[1] / "jobs" / "benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    world = write_world(str(tmp_path / "world"), 1, 0, ("cat2dog",))
    asked = ["--model", str(tiny_model), "--collection", world, "--images", "1", "--steps", "2"]
    assert benchmark.main([*asked, "--only", "10 steps", "10, guided 0.5", "--directions", "1", "2"]) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = {cells[0]: cells for cells in lines[2:]}
    assert list(table) == [
        "the source left as it is",
        "diffusers, 2 steps, one at a time",
        "ours, 10 steps, K = 1",
        "ours, 10 steps, K = 2",
        "ours, 10, guided 0.5, K = 1",
        "ours, 10, guided 0.5, K = 2",
    ]
    passes = {name: float(cells[3]) for name, cells in table.items() if name.startswith("ours")}
    # The inversion and the reference are shared by the K edits, and half of the guidance is left out.
    assert passes["ours, 10 steps, K = 2"] < passes["ours, 10 steps, K = 1"]
    assert passes["ours, 10, guided 0.5, K = 1"] < passes["ours, 10 steps, K = 1"]
    assert all(float(cells[5]) >= 0 for cells in table.values())
