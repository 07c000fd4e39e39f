"""A student's folder: it comes back as it was, answers each picture as if alone, and does so in other runtimes too."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import p2pz_ray
from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.storage.store import Store
from p2pz_ray.student import export
from p2pz_ray.student.repertoire import Repertoire, Skill
from p2pz_ray.student.student import Student, build_generator, save_student

COMOD = {"base": 128, "max": 16, "code": 16, "z": 4, "mapping_layers": 1, "noise": True}
MOBILE = {"architecture": "mobile", "base": 128, "max": 16, "blocks": 2}


def generator(size: int = 16, **settings: Any) -> Any:
    torch.manual_seed(0)
    made = build_generator(GeneratorConfig(**(settings or COMOD)), size)
    with torch.no_grad():
        for parameter in made.parameters():  # away from the values at which layers do nothing
            parameter += 0.1 * torch.randn(parameter.shape)
    return made


def saved(folder: Path, **settings: Any) -> Path:
    save_student(Store(str(folder)), "student", generator(**settings), Repertoire({"cat2dog": Skill()}), {"pairs": 3})
    return folder / "student"


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("settings", [COMOD, MOBILE], ids=["comod", "mobile"])
def test_a_saved_student_answers_as_the_generator_did(
    settings: dict[str, Any], tmp_path: Path, images: np.ndarray
) -> None:
    student = p2pz_ray.Student.from_pretrained(str(saved(tmp_path, **settings)))
    edited = student(images)
    assert (edited.dtype, edited.shape) == (np.uint8, images.shape)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        wanted = ((generator(**settings)(x).clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    assert np.array_equal(edited, wanted.numpy().astype(np.uint8))
    assert not np.array_equal(edited, images)
    assert list(student.repertoire.skills) == ["cat2dog"]
    assert np.array_equal(student([Image.fromarray(image) for image in images]), edited)
    assert student(images[:0]).shape == (0, 16, 16, 3)


def test_pictures_that_can_not_be_written_to_are_taken_without_a_word(tmp_path: Path, images: np.ndarray) -> None:
    student = Student.from_pretrained(str(saved(tmp_path)))
    wanted = student(images)
    images.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(student(images), wanted)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("settings", [COMOD, MOBILE], ids=["comod", "mobile"])
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(
    settings: dict[str, Any], tmp_path: Path, images: np.ndarray
) -> None:
    student = Student.from_pretrained(str(saved(tmp_path, **settings)))
    together = student(images).astype(int)
    alone = np.concatenate([student(image[None]) for image in images])
    assert np.abs(together - alone).max() <= 1  # a last digit may fall to the other side of a grey level
    assert (together == alone).mean() > 0.999
    assert np.array_equal(student(images), together)
    assert np.array_equal(student(images, batch_size=5), student(images, batch_size=5))


def test_half_the_bytes_answer_nearly_the_same(tmp_path: Path, images: np.ndarray) -> None:
    whole = saved(tmp_path)
    save_student(Store(str(tmp_path)), "half", generator(), Repertoire(), {}, half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    edited = [Student.from_pretrained(str(folder))(images).astype(int) for folder in (whole, tmp_path / "half")]
    assert np.abs(edited[0] - edited[1]).max() <= 3


def test_the_card_says_what_the_student_is_and_was_made_of(tmp_path: Path) -> None:
    card = (saved(tmp_path) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: p2pz_ray\n")
    for said in ("cat2dog", "16 × 16 px", '"pairs": 3', f"{sum(p.numel() for p in generator().parameters()):,}"):
        assert said in card


def test_what_is_no_student_is_said_to_be_none(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"isn't a student: it has no config\.json"):
        Student.from_pretrained(str(tmp_path))
    folder = saved(tmp_path)
    (tmp_path / "other").mkdir()
    whole = (folder / "config.json").read_text()
    for damaged in ("{", '{"format": "of another program"}', whole.replace('"code": 16', '"code": 8'), "[]"):
        (folder / "config.json").write_text(damaged)
        with pytest.raises(ConfigError, match="is not a student that can be loaded"):
            Student.from_pretrained(str(folder))
    (folder / "config.json").write_text(whole)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="is not a student that can be loaded"):
        Student.from_pretrained(str(folder))


@pytest.mark.parametrize("wrong", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)])
def test_pictures_of_another_size_or_type_are_refused(wrong: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes \(B, 16, 16, 3\) uint8"):
        Student.from_pretrained(str(saved(tmp_path)))(wrong)


def test_a_student_lives_at_any_uri(images: np.ndarray) -> None:
    save_student(Store("memory://students"), "one", generator(), Repertoire(), {})
    assert Student.from_pretrained("memory://students/one")(images).shape == images.shape


@pytest.mark.slow
@pytest.mark.parametrize("settings", [COMOD, MOBILE], ids=["comod", "mobile"])
def test_an_onnx_export_answers_as_the_student_for_any_number_of_pictures(
    settings: dict[str, Any], tmp_path: Path, images: np.ndarray
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = saved(tmp_path, **settings)
    name = export.export_student(Store(str(tmp_path)), "student", "onnx")
    assert name == f"{folder}/model.onnx"
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    student = Student.from_pretrained(str(folder))
    with torch.no_grad():
        wanted = student.generator(x).clamp(-1, 1).numpy()
    [together] = session.run(None, {"images": x.numpy()})
    assert np.abs(together - wanted).max() <= 1e-4
    alone = np.concatenate([session.run(None, {"images": one[None].numpy()})[0] for one in x])
    assert np.abs(together - alone).max() <= 1e-5
    served = Student.from_pretrained(str(folder), runtime="onnx")
    assert np.abs(served(images).astype(int) - student(images)).max() <= 1
    assert (served.repertoire.skills, served.size) == (student.repertoire.skills, student.size)
    assert served.digest != student.digest


def test_an_onnx_model_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = saved(tmp_path)
    with pytest.raises(ConfigError, match=r"has no model\.onnx: run p2pz distill again with export=\[onnx\]"):
        Student.from_pretrained(str(folder), runtime="onnx")
    (folder / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="The ONNX model can't be loaded"):
        Student.from_pretrained(str(folder), runtime="onnx")


@pytest.mark.slow
def test_a_torch_export_answers_as_the_student_for_any_number_of_pictures(tmp_path: Path) -> None:
    student = Student.from_pretrained(str(saved(tmp_path)))
    program = torch.export.load(io.BytesIO(export.to_program(student))).module()
    for count in (1, 2, 7):
        x = torch.rand(count, 3, 16, 16) * 2 - 1
        with torch.no_grad():
            torch.testing.assert_close(program(x), student.generator(x).clamp(-1, 1), rtol=0, atol=1e-4)


def test_an_export_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path)
    load = torch.export.load

    def damaged(data: io.BytesIO) -> Any:
        program = load(data)
        next(iter(program.state_dict.values())).mul_(2)
        return program

    monkeypatch.setattr(torch.export, "load", damaged)
    with pytest.raises(P2PZError, match=r"The torch\.export export differs from the student by"):
        export.export_student(Store(str(tmp_path)), "student", "torch")
    assert not (folder / "model.pt2").exists()


def test_what_an_export_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student.from_pretrained(str(saved(tmp_path)))
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"needs onnxscript: pip install 'p2pz_ray\[export\]'"):
        export.to_onnx(student)


# ------------------------------------------------------------------------------------------------------- many edits

STYLED = {"base": 128, "max": 16, "code": 16, "style": 8}
DOG, GLASSES = (0.6, 0.8, 0.0), (0.0, 0.6, 0.8)
MANY = Repertoire({"cat2dog": Skill(DOG), "cat2glasses": Skill(GLASSES, 0.8)})


def styled(size: int = 16) -> Any:
    torch.manual_seed(0)
    made = build_generator(GeneratorConfig(**STYLED), size, 3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return made


def many(folder: Path) -> Path:
    save_student(Store(str(folder)), "many", styled(), MANY, {})
    return folder / "many"


def test_one_student_makes_many_edits_at_any_strength_and_several_at_once(tmp_path: Path, images: np.ndarray) -> None:
    student = Student.from_pretrained(str(many(tmp_path)))
    model, x = styled(), torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    def wanted(*direction: float) -> np.ndarray:
        with torch.no_grad():
            made = model(x, torch.tensor([direction]).expand(len(x), 3)).clamp(-1, 1)
        return ((made + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)

    dogs = student(images, edit="cat2dog")
    assert np.array_equal(dogs, wanted(0.6, 0.8, 0.0))
    assert np.array_equal(student(images, edit="cat2glasses", strength=0.5), wanted(0.0, 0.3, 0.4))
    both = student(images, edit={"cat2dog": 1.0, "cat2glasses": 0.5})
    assert np.abs(both.astype(int) - wanted(0.6, 1.1, 0.4)).max() <= 1
    halves = student(images, edit={"cat2dog": 1.0, "cat2glasses": 0.5}, strength=0.5)
    assert np.abs(halves.astype(int) - wanted(0.3, 0.55, 0.2)).max() <= 1
    assert len({each.tobytes() for each in (images, dogs, both, halves)}) == 4
    each = student(images, edit=["cat2dog", "cat2glasses", "cat2dog", "cat2dog", {"cat2dog": 0.2}],
                   strength=[1.0, 0.5, 0.0, 0.3, 1.0])  # fmt: skip
    alone = [student(images[i : i + 1], edit=name, strength=s)[0] for i, (name, s) in enumerate(
        [("cat2dog", 1.0), ("cat2glasses", 0.5), ("cat2dog", 0.0), ("cat2dog", 0.3), ("cat2dog", 0.2)])]  # fmt: skip
    assert np.abs(each.astype(int) - np.stack(alone)).max() <= 1
    said = (tmp_path / "many" / "README.md").read_text()
    assert 'student(images, edit="cat2dog", strength=0.5)' in said


def test_strength_0_is_the_source_itself_and_a_little_is_near_it(tmp_path: Path, images: np.ndarray) -> None:
    student = Student.from_pretrained(str(many(tmp_path)))
    assert np.array_equal(student(images, edit="cat2dog", strength=0), images)
    apart = [np.abs(student(images, edit="cat2dog", strength=s).astype(int) - images).mean() for s in (0.01, 0.1, 0.2)]
    assert 0 < apart[0] < apart[1] < apart[2]


@pytest.mark.parametrize(
    ("edit", "strength", "sentence"),
    [
        (None, 1.0, "The student knows cat2dog, cat2glasses: say which edit"),
        ("cat2fox", 1.0, "The student has no edit 'cat2fox': it knows cat2dog, cat2glasses"),
        ("cat2glasses", 1.0, "was taught cat2glasses at strengths from 0 to 0.8, not at 1"),
        ("cat2dog", -0.5, "was taught cat2dog at strengths from 0 to 1, not at -0.5"),
        ("cat2dog", float("nan"), "not at nan"),
        (["cat2dog"] * 3, 1.0, "edit has 3 entries for 5 images"),
        ({}, 1.0, "asked for no edit"),
    ],
)
def test_what_a_student_was_not_taught_is_refused(
    edit: Any, strength: float, sentence: str, tmp_path: Path, images: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Student.from_pretrained(str(many(tmp_path)))(images, edit=edit, strength=strength)


def test_a_student_of_one_edit_knows_one_strength(tmp_path: Path, images: np.ndarray) -> None:
    student = Student.from_pretrained(str(saved(tmp_path)))
    assert np.array_equal(student(images, edit="cat2dog", strength=1), student(images))
    for asked in ({"strength": 0.5}, {"edit": {"cat2dog": 1.0, "cat2fox": 1.0}}, {"edit": "cat2fox"}):
        with pytest.raises(ConfigError, match=r"The student makes only cat2dog|it knows cat2dog"):
            student(images, **asked)


@pytest.mark.slow
def test_exports_keep_the_direction_as_their_second_input(tmp_path: Path, images: np.ndarray) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = many(tmp_path)
    student = Student.from_pretrained(str(folder))
    export.export_student(Store(str(tmp_path)), "many", "onnx")
    served = Student.from_pretrained(str(folder), runtime="onnx")
    for asked in ({"edit": "cat2dog", "strength": 0.4}, {"edit": {"cat2dog": 0.5, "cat2glasses": 0.8}}):
        assert np.abs(served(images, **asked).astype(int) - student(images, **asked)).max() <= 1
    assert np.array_equal(served(images[:1], edit="cat2dog", strength=0), images[:1])
    program = torch.export.load(io.BytesIO(export.to_program(student))).module()
    for count in (1, 7):
        x, direction = torch.rand(count, 3, 16, 16) * 2 - 1, torch.rand(count, 3)
        with torch.no_grad():
            wanted = student.generator(x, direction).clamp(-1, 1)
            torch.testing.assert_close(program(x, direction), wanted, rtol=0, atol=1e-4)


def test_mini_is_the_student_in_the_package(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pz_ray.student.student.SHIPPED", tmp_path / "many")
    with pytest.raises(ConfigError, match="This package has no student of its own: give OUTPUT/student"):
        Student.from_pretrained("mini")
    many(tmp_path)
    assert list(Student.from_pretrained("mini").repertoire.skills) == ["cat2dog", "cat2glasses"]
