"""The table of a student beside its teacher is of any student, any checkpoint and any collection with truth."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

from p2pz_ray.collection.store import Store
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.student.config import GeneratorConfig
from p2pz_ray.student.export import export_student
from p2pz_ray.student.repertoire import Repertoire, Skill
from p2pz_ray.student.student import build_generator, save_student

JOBS = Path(__file__).parents[1] / "jobs"


def test_a_row_for_each_engine_with_its_error_and_its_speed(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.syspath_prepend(str(JOBS))  # as python jobs/student.py has it
    spec = importlib.util.spec_from_file_location("student_table", JOBS / "student.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    monkeypatch.setattr(table, "BATCHES", (1, 2))
    torch.manual_seed(0)
    untrained = build_generator(GeneratorConfig(base=64, max=4, code=8, residual=True), 64)
    save_student(Store(str(tmp_path)), "student", untrained, Repertoire({"cat2dog": Skill()}), {})
    export_student(Store(str(tmp_path)), "student", "onnx")
    world = write_world(str(tmp_path / "world"), 2, 0, ("cat2dog",))
    asked = [str(tmp_path / "student"), "--collection", world, "--model", str(tiny_model), "--images", "2"]
    asked += ["--teacher-steps", "2", "--diffusers", "2", "--steps", "2", "--sheet", str(tmp_path / "sheet.png")]
    assert table.main(asked) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}
    source, student = rows["the source left as it is"], rows["the student, batch 1"]
    for column in ("judged", "error", "background", "to teacher", "ST-LPIPS to teacher"):
        assert student[column] == source[column]  # an untrained residual student is the identity
    assert float(source["error"]) > 0
    assert source["background"] == "0.0000"  # a source differs from its truth in the animals alone
    assert rows["the editor, 2 steps: the teacher"]["to teacher"] == "0.0000"
    assert rows["diffusers, 2 steps, one at a time"]["× diffusers"] == "1.0"
    for name in ("the student, batch 2", "the student by onnxruntime, batch 2, network alone"):
        assert float(rows[name]["seconds a picture"]) > 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 64, 4 * 64)
