"""The tables of a student beside its teacher: a perfect one is perfect in them, and a blurred one is found blurred."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.lab import __main__ as command
from p2pz_ray.lab import bench as benches
from p2pz_ray.lab import students
from p2pz_ray.lab.bench import Bench, Pixels
from p2pz_ray.lab.students import Taught, high_frequencies, tables
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.judge import FOLDER
from p2pz_ray.storage.store import Store
from p2pz_ray.student import Student
from p2pz_ray.student.repertoire import Repertoire, Skill
from p2pz_ray.student.student import build_generator, save_student

KNOWN = Repertoire({"cat2dog": Skill((1.0, 0.0)), "cat2glasses": Skill((0.0, 1.0))})


class Perfect(Student):
    """Answers with the truth, mixed with the source at lower strengths; `blur` mixes each row with the next."""

    def __init__(self, bench: Bench, blur: bool = False) -> None:
        untrained = build_generator(GeneratorConfig(base=64, max=4, code=8, style=4), 64, 2)
        super().__init__(untrained, KNOWN)
        self.blur, self.right = blur, {}
        for name in KNOWN.skills:
            task = bench.task(name)
            self.right |= {(name, x.tobytes()): y for x, y in zip(task.sources, task.truths, strict=True)}

    def __call__(self, images: Pixels, batch_size: int = 32, *, edit, strength=1.0) -> Pixels:  # type: ignore
        name = edit if isinstance(edit, str) else next(iter(edit))
        truths = np.stack([self.right[name, image.tobytes()] for image in images]).astype(float)
        made = images + strength * (truths - images)
        if self.blur:
            made = (made + np.roll(made, 1, axis=1)) / 2
        return made.round().astype(np.uint8)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(MODEL, FOLDER, count=4, seed=5)


def rows(table: list[list[str]]) -> dict[tuple[str, str], dict[str, str]]:
    head, *cells = table
    return {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in cells}


def test_a_perfect_student_is_perfect_and_a_blurred_one_is_found_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benches, "SENTENCES", 4)
    # A teacher that costs nothing: the truth but for a grey level here and there.
    monkeypatch.setattr(Bench, "edited", lambda self, task: task.truths // 2 * 2)
    taught = Taught(bench)
    found = tables(taught, Perfect(bench), ("cat2dog", "cat2glasses", "horse2zebra"))
    quality = rows(found["quality"])
    assert {edit for edit, _ in quality} == {"cat2dog", "cat2glasses"}  # which the student knows
    for name in ("cat2dog", "cat2glasses"):
        right, source = quality[name, "the student"], quality[name, "the source left as it is"]
        assert (right["judge"], source["judge"]) == ("100.0 %", "0.0 %")
        assert (right["error to the truth"], right["high frequencies, teacher 1"]) == ("0.0000", "1.00")
        assert float(source["error to the truth"]) > 0
        assert float(right["target's logit"]) > 0 > float(source["target's logit"])
    blurred = rows(tables(taught, Perfect(bench, blur=True), ("cat2dog",))["quality"])["cat2dog", "the student"]
    assert float(blurred["high frequencies, teacher 1"]) < 0.8
    _, dog, _ = found["strength"]
    assert (dog[0], dog[-1]) == ("cat2dog", "100.0 %")
    assert float(dog[1]) == 100  # the source itself
    _, both = found["composition"]
    assert both[:2] == ["cat2dog + cat2glasses", str(sum(not s.glasses for s in bench.task("cat2dog").scenes))]
    assert (both[2], both[3]) == ("0.0 %", "100.0 %")  # this one makes the first alone


def test_high_frequencies_are_what_a_blur_takes_away() -> None:
    flat = np.full((1, 8, 8, 3), 90, np.uint8)
    assert not high_frequencies(flat).any()
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)[None, ..., None].repeat(3, 3)
    inner = high_frequencies(board)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0.25)  # every pixel is half a unit from the mean that the blur leaves


def test_the_commands_print_draw_and_make_the_teachers_edits_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    generator = build_generator(GeneratorConfig(base=64, max=4, code=8, style=4), 64, 2)
    save_student(Store(str(tmp_path)), "student", generator, KNOWN, {})
    monkeypatch.setattr(benches, "SENTENCES", 20)
    edited, calls = Bench.edited, []

    def counted(self: Bench, task, *settings) -> Pixels:
        calls.append(task.edit.name)
        return edited(self, task, {"steps": 2})

    monkeypatch.setattr(Bench, "edited", counted)
    given = ["lab", "--count", "2", "--student", str(tmp_path / "student"), "--kept", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", [*given, "--drawing", str(tmp_path / "sheet.png"), "student"])
    command.main()
    said = capsys.readouterr().out
    for title in ("quality", "strength", "composition"):
        assert f"### student: {title}" in said
    monkeypatch.setattr(sys, "argv", [*given, "--drawing", str(tmp_path / "sheet.png"), "student-sheet"])
    command.main()
    assert sorted(calls) == ["cat2dog", "cat2glasses"]  # the sheet's are those that the table made
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (2 * 66, 2 * 5 * 66 + 4)
    with pytest.raises(ConfigError, match="The student knows cat2dog, cat2glasses, none of horse2zebra"):
        students.known(Student(generator, KNOWN), ["horse2zebra"])
