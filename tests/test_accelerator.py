"""The accelerator's job runs through at tiny sizes, keeps to its seconds, and loses nothing to a failure."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from p2pz_ray.config.generator import GeneratorConfig

JOBS = Path(__file__).parents[1] / "jobs"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(JOBS)
    return importlib.import_module("accelerator")


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "accelerator.json").read_text())


@pytest.mark.slow
def test_everything_is_measured_at_tiny_sizes(job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels aren't compiled: that takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(importlib.import_module("gpu.speed"), "FEW", (2, 3))
    assert job.main(["--tiny", "--out", str(tmp_path), "--seconds", "3600"]) == 0
    made = found(tmp_path)
    rows = made["rows"]
    assert not [row for section in rows.values() for row in section if "error" in row]
    assert len(made["notes"]) == 1  # nothing was left out
    for family in ("SD 1.5", "SD 2.1", "SDXL"):
        whole, *halves = rows[f"agreement, {family}"]
        assert 0.9 < whole["size of ε"] < 1.1
        assert all(row["finite"] and 0 < row["edited latents error"] < 0.3 for row in halves)
    assert [row["editor"] for row in rows["speed, SD 1.5"]] == ["ours", "ours", "diffusers"]
    assert all(row["repeat bit for bit"] and row["edited latents error"] < 1e-4 for row in rows["isolation, SD 1.5"])
    assert made["batch_size"] == 1
    table = (tmp_path / "accelerator.md").read_text()
    assert all(f"### {section}" in table for section in rows)


def test_what_has_no_time_left_is_named_and_the_files_stand(job: ModuleType, tmp_path: Path) -> None:
    assert job.main(["--tiny", "--out", str(tmp_path), "--seconds", "0"]) == 0
    made = found(tmp_path)
    assert made["rows"] == {}
    assert "speed, SDXL (float16, 1 × 1)" in made["notes"][0]


def test_a_failed_measurement_stands_in_the_table_and_the_next_ones_go_on(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = importlib.import_module("gpu.plan")

    def measurements(*_: object) -> list[Any]:
        def fails() -> list[dict[str, Any]]:
            raise RuntimeError("a | bad\nkernel")

        def unbuilt() -> list[dict[str, Any]]:
            raise plan.NotBuiltError

        return [
            plan.Measurement("one", "first", 0, fails),
            plan.Measurement("two", "second", 0, unbuilt),
            plan.Measurement("one", "third", 0, lambda: [{"seconds": 0.5}]),
        ]

    monkeypatch.setattr(job, "measurements", measurements)
    assert job.main(["--out", str(tmp_path)]) == 0
    made = found(tmp_path)
    assert made["rows"] == {"one": [{"error": "first: RuntimeError: a | bad kernel"}, {"seconds": 0.5}]}
    assert "two (second)" in made["notes"][0]
    assert "| first: RuntimeError: a / bad kernel | – |" in (tmp_path / "accelerator.md").read_text()


def test_the_batch_it_would_choose_is_the_smallest_of_the_fastest_that_fit(job: ModuleType) -> None:
    def row(batch: int, edits: float, gib: float, **more: Any) -> dict[str, Any]:
        known = {"editor": "ours", "weights": "float16", "K": 1, "weights, GiB": 2.0, "peak above that, GiB": gib}
        return {**known, "batch": batch, "edits per second": edits, **more}

    rows = [row(1, 1.0, 1), row(8, 1.96, 6), row(16, 2.0, 13), row(64, 3.0, 70), row(4, 9.0, 1, weights="tf32")]
    chosen_batch = importlib.import_module("gpu.report").chosen_batch
    assert chosen_batch(rows, 80.0) == 8
    assert chosen_batch([*rows, {"editor": "ours", "weights": "float16", "K": 1, "batch": 128}], 140.0) == 64
    assert chosen_batch([], 80.0) is None


def test_its_student_is_the_default_one(job: ModuleType) -> None:
    assert GeneratorConfig().model_dump() == importlib.import_module("gpu.student").STUDENT


def test_it_needs_no_ray_no_pydantic_and_no_arrow() -> None:
    """In a process in which they can't be imported."""
    code = (
        "import sys; sys.modules.update({name: None for name in ('ray', 'pydantic', 'pyarrow')}); "
        "import p2pz_ray.editing, p2pz_ray.student.generator, accelerator, gpu.weights; gpu.weights.tokenizer()"
    )
    folders = [str(JOBS), str(JOBS.parent)]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}; {code}"], check=True)
