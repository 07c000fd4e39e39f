"""A translation whose engine is a student: the same job and the same rows, by one forward pass."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_job import committed_files, data_files, pairs_of, tiny_settings, translated

from p2pz_ray import Editor
from p2pz_ray.cli import main
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.storage.store import Store
from p2pz_ray.student import Student
from p2pz_ray.student.repertoire import Repertoire, Skill
from p2pz_ray.student.student import build_generator, save_student
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.run import translate
from p2pz_ray.translation.translator import Translator

POLICY = DecodePolicy((64, 64))
IMAGES = 5


@pytest.fixture(autouse=True)
def no_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if anything of a diffusion model is loaded."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a diffusion model was asked for")

    monkeypatch.setattr(Editor, "from_pretrained", refuse)
    monkeypatch.setattr(TextEncoder, "load", refuse)


def write_student(folder: Path, seed: int = 0, edit: str | None = "cat2dog") -> Path:
    """A student of 64 px with random weights."""
    torch.manual_seed(seed)
    generator = build_generator(GeneratorConfig(base=64, max=4, code=8), 64)
    save_student(Store(str(folder)), "student", generator, Repertoire({edit: Skill()} if edit else {}), {})
    return folder / "student"


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    given = tiny_settings(folder, Path("mini"), images=IMAGES, per_partition=2)
    del given["model"], given["inversion"]
    given["edits"] = {"cat2dog": {"source": "cat", "target": "dog"}}
    return {**given, "student": str(folder / "student"), **changes}


def pixels(row: dict[str, Any], column: str) -> np.ndarray:
    return decode(row[column]["bytes"], POLICY)


def test_a_run_by_a_student_goes_on_like_any_other_and_holds_its_answers(tmp_path: Path, local_ray: None) -> None:
    student = Student.from_pretrained(str(write_student(tmp_path)), "cpu")
    config = TranslateConfig.model_validate(settings(tmp_path))
    assert translate(config).ok == IMAGES
    pairs = pairs_of(tmp_path / "run")
    assert set(pairs) == {(f"cat-{i:05}", "cat2dog") for i in range(IMAGES)}
    for row in pairs.values():
        assert np.array_equal(pixels(row, "edited_image"), student(pixels(row, "source_image")[None])[0])
        assert not np.array_equal(pixels(row, "edited_image"), pixels(row, "source_image"))
        assert "cat" in row["caption"]
    assert not translate(config).fresh
    first, *_ = sorted((tmp_path / "run" / "manifest").iterdir())
    kept = committed_files(tmp_path / "run")
    first.unlink()
    (tmp_path / "run" / "_SUCCESS").unlink()
    assert translate(config).ok == IMAGES
    assert pairs_of(tmp_path / "run") == pairs
    assert data_files(tmp_path / "run") == committed_files(tmp_path / "run")
    assert len(kept & data_files(tmp_path / "run")) == len(kept) - 1  # one partition was done again, and no other


def write_skilled(folder: Path, edits: Sequence[str] = ("cat2dog", "cat2horse")) -> Path:
    """A student of two edits, or of one at any strength, with random weights."""
    torch.manual_seed(0)
    generator = build_generator(GeneratorConfig(base=64, max=4, code=8, style=4), 64, 2)
    known = Repertoire({name: Skill(axis) for name, axis in zip(edits, ((1.0, 0.0), (0.6, 0.8)), strict=False)})
    save_student(Store(str(folder)), "student", generator, known, {})
    return folder / "student"


def test_edits_strengths_and_compositions_are_the_students_as_they_are_the_models(tmp_path: Path) -> None:
    student = Student.from_pretrained(str(write_skilled(tmp_path)), "cpu")
    edits = {
        "cat2dog": {"source": "cat", "target": "dog", "strength": [0.5, 1.0]},
        "cat2horse": {"source": "cat", "target": "horse", "strength": 0.4},
        "both": {"compose": ["cat2dog-50", "cat2horse"], "strength": 0.5},
    }
    pairs = translated(settings(tmp_path, edits=edits))
    made = {"cat2dog-50": {"cat2dog": 0.5}, "cat2dog-100": {"cat2dog": 1.0}, "cat2horse": {"cat2horse": 0.4}}
    made["both"] = {"cat2dog": 0.25, "cat2horse": 0.2}
    assert {edit for _, edit in pairs} == made.keys()
    for (_, edit), row in pairs.items():
        wanted = student(pixels(row, "source_image")[None], edit=made[edit])[0]
        assert np.abs(pixels(row, "edited_image").astype(int) - wanted).max() <= 1
    for wrong, sentence in (
        ({"cat2fox": {"source": "cat", "target": "fox"}}, r"edits\.cat2fox is not for .*has no edit 'cat2fox'"),
        ({"cat2dog": {"source": "cat", "target": "dog", "strength": 1.5}}, r"from 0 to 1, not at 1\.5"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            prepare(TranslateConfig.model_validate(settings(tmp_path, edits=wrong, output=str(tmp_path / "no"))))


def test_outside_a_mask_the_source_stays_bit_for_bit(tmp_path: Path) -> None:
    write_student(tmp_path)
    given = settings(tmp_path)
    given["input"]["columns"] = {"mask": "mask"}
    pairs = translated(given)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "world").to_pylist()}
    for (id, _), pair in pairs.items():
        white = decode(rows[id]["mask"]["bytes"], POLICY).mean(axis=2) > 8
        source, edited = pixels(pair, "source_image"), pixels(pair, "edited_image")
        assert np.array_equal(edited[~white], source[~white])
        assert not np.array_equal(edited[white], source[white])


def test_an_image_that_a_student_cannot_have_is_an_error_row(tmp_path: Path) -> None:
    write_student(tmp_path)
    given = settings(tmp_path)
    [file] = (tmp_path / "world").glob("*.parquet")
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    images[1] = {"bytes": b"no picture", "path": None}
    column = table.schema.get_field_index("image")
    pq.write_table(table.set_column(column, table.schema.field(column), [images]), file)
    states = [row["status"] for row in translated(given).values()]
    assert (states.count("ok"), states.count("error")) == (IMAGES - 1, 1)


def test_another_student_in_the_same_folder_is_refused_by_the_driver_and_by_a_replica(tmp_path: Path) -> None:
    write_student(tmp_path)
    config = TranslateConfig.model_validate(settings(tmp_path))
    prepared = prepare(config)
    assert prepared is not None
    write_student(tmp_path, seed=1)
    with pytest.raises(ConfigError, match=r"student .*/student is not what it was when the run was begun"):
        Translator(prepared[0])
    with pytest.raises(ConfigError, match=r'student was "[0-9a-f]{64}" and is "[0-9a-f]{64}"'):
        prepare(config)
    shutil.rmtree(tmp_path / "run")
    again = prepare(config)
    assert again is not None
    assert again[0].fingerprint != prepared[0].fingerprint


def test_a_folder_that_is_no_student_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    with pytest.raises(ConfigError, match=r"student isn't a student: it has no config\.json"):
        prepare(TranslateConfig.model_validate(settings(tmp_path)))
    write_student(tmp_path)
    (tmp_path / "student" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"student is not a student that can be loaded"):
        prepare(TranslateConfig.model_validate(settings(tmp_path)))
    assert RunFolder(str(tmp_path / "run")).config() is None


def test_what_the_student_was_not_made_for_is_refused(tmp_path: Path) -> None:
    write_student(tmp_path, edit="horse2zebra")
    with pytest.raises(
        ConfigError,
        match=r"edits\.cat2dog is not for the student .*: The student has no edit 'cat2dog': it knows horse2zebra",
    ):
        prepare(TranslateConfig.model_validate(settings(tmp_path)))
    with pytest.raises(ConfigError, match=r"image\.size is \[32, 32\], but the student takes \[64, 64\]"):
        prepare(TranslateConfig.model_validate(settings(tmp_path, image={"size": 32})))
    write_student(tmp_path)
    two = {name: {"source": "cat", "target": name[4:]} for name in ("cat2dog", "cat2horse")}
    with pytest.raises(ConfigError, match="student makes one edit, cat2dog, but edits names cat2dog, cat2horse"):
        prepare(TranslateConfig.model_validate(settings(tmp_path, edits=two)))
    half = {"cat2dog": {**two["cat2dog"], "strength": 0.5}}
    with pytest.raises(ConfigError, match="The student makes only cat2dog, at strength 1"):
        prepare(TranslateConfig.model_validate(settings(tmp_path, edits=half)))
    write_student(tmp_path, edit=None)
    assert prepare(TranslateConfig.model_validate(settings(tmp_path))) is not None


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("edits.cat2dog={direction: d.safetensors}", "student has no use for edits.cat2dog.direction"),
        ("guidance.lambda_xa=0.3", "student has no use for guidance"),
        ("inversion.cache=cache", "student has no use for inversion"),
        ("model=somewhere/else", "student has no use for model"),
        ("compile=true", "student has no use for compile"),
        ("captions.model=Salesforce/blip", "student has no use for captions.model"),
    ],
)
def test_what_a_student_has_no_use_for_is_refused_in_one_sentence(
    tmp_path: Path, setting: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = str(Path(__file__).parents[1] / "configs" / "mini" / "cat2dog.yaml")
    student = f"student={write_student(tmp_path)}"
    overrides = ["captions.otherwise=a cat", f"input.uri={tmp_path}", f"output={tmp_path / 'run'}"]
    assert main(["translate", shipped, student, *overrides, setting]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
