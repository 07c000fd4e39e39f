"""The table of how fast students are, beside their teacher and diffusers."""

import importlib.util
from pathlib import Path

import pytest
import torch

from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.storage.store import Store
from p2pz_ray.student.export import export_student
from p2pz_ray.student.repertoire import Repertoire, Skill
from p2pz_ray.student.student import build_generator, save_student

JOBS = Path(__file__).parents[1] / "jobs"


@pytest.mark.slow
def test_a_row_for_each_engine_one_at_a_time_and_at_its_best(
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
    monkeypatch.setattr(table, "LONG_ENOUGH", 0.0)
    torch.manual_seed(0)
    many = build_generator(GeneratorConfig(base=64, max=4, code=8, style=4), 64, 2)
    known = Repertoire({"cat2dog": Skill((1.0, 0.0)), "cat2glasses": Skill((0.0, 1.0))})
    save_student(Store(str(tmp_path)), "many", many, known, {})
    export_student(Store(str(tmp_path)), "many", "onnx")
    one = build_generator(GeneratorConfig(base=64, max=4, code=8), 64)
    save_student(Store(str(tmp_path)), "one", one, Repertoire(), {})
    asked = [str(tmp_path / "many"), str(tmp_path / "one"), "--model", str(tiny_model), "--images", "2"]
    assert table.main([*asked, "--teacher-steps", "2", "--steps", "2"]) == 0
    said = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("|")]
    rows = [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]
    assert "one by onnxruntime is left out" in said
    of = {row["engine"].split("/")[-1] for row in rows}
    assert of == {"diffusers, 2 steps", "the editor, 2 steps", "many", "many by onnxruntime", "one"}
    assert rows[0]["× diffusers"] == rows[1]["× the editor"] == "1.0"
    for row in rows[2:]:
        assert float(row["seconds, PNG to PNG"]) > 0
        assert float(row["seconds, network alone"]) > 0
        assert int(row["parameters"].replace(",", "")) == sum(
            p.numel() for p in (many if "many" in row["engine"] else one).parameters()
        )
    assert next(row["batch"] for row in rows if row["engine"].endswith("/many")) == "1"
