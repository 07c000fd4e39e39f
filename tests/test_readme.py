"""What the READMEs show is run as it stands: Python is executed, commands are parsed with their configurations loaded,
and every file, link and heading that is named is there."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.data
from test_student import many, saved

from p2pz_ray.arguments import parsed
from p2pz_ray.cli import VERBS, main
from p2pz_ray.config import load
from p2pz_ray.config.reference import JOBS
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.run import Run
from p2pz_ray.student import Student

ROOT = Path(__file__).parents[1]
HISTORY = ROOT / "CHANGELOG.md"
FOLDERS = ("cluster", "configs", "jobs", "p2pz_ray")
WRITTEN = {HISTORY, ROOT / "p2pz_ray/mini/student/README.md"}
"""No instructions: what changed, and a card that `p2pz distill` writes."""
DOCS = sorted({*ROOT.glob("*.md"), *(file for name in FOLDERS for file in (ROOT / name).rglob("*.md"))} - WRITTEN)
PYTHON = {
    "import p2pz_ray": "README.md",
    "import ray.data": "p2pz_ray/running/README.md",
    "import datasets": "p2pz_ray/collection/README.md",
    "from p2pz_ray import Editor": "p2pz_ray/editing/README.md",
    "from p2pz_ray import Student": "p2pz_ray/distill/README.md",
    'student(images, edit="cat2dog", strength=0.5)': "p2pz_ray/distill/README.md",
}
"""The first line of each block of Python, and where it stands. A test below runs it."""
DRAWN = ("collection ──►", "RUN/config.yaml", "cli, jobs, lab →", "hours = images")
"""What blocks begin with that nobody can run."""
SETTING = r"[A-Z0-9_]+=\S*"  # of the environment, before a command
COMMAND = re.compile(
    rf"(?:{SETTING} )*(?:\.venv/bin/|python3? |p2pz |pip |pytest |ray |serve |docker |kubectl |curl |export |for )"
)


def blocks(file: Path) -> Iterator[str]:
    """The indented blocks of a file."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?<=\n\n)(?:    .*\n|\n(?=\n*    ))+", text):
        yield textwrap.dedent(found[0])


def example(first: str) -> str:
    """The block of Python that begins with a line."""
    [found] = [
        block
        for block in blocks(ROOT / PYTHON[first])
        if block.startswith(f"{first}\n") or block.startswith(f"{first} ")
    ]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with the collection that the examples name, but smaller."""
    monkeypatch.chdir(tmp_path)
    write_world("runs/world-cat2dog", 2, seed=0, edits=("cat2dog",))
    return tmp_path


def test_the_readme_is_short_and_gives_the_commands_that_ci_runs() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    for command in re.findall(r'_command="(.*)"', (ROOT / ".ci" / "run").read_text()):
        assert f"    {command}" in lines


@pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_block_is_run_or_read_by_a_test(file: Path) -> None:
    for block in blocks(file):
        first = block.splitlines()[0]
        known = any(first.startswith(line) and ROOT / where == file for line, where in PYTHON.items())
        assert known or first.startswith(DRAWN) or COMMAND.match(first), first


@pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(file):
        if words[0].endswith("p2pz"):
            check(words[1:])
        elif words[0].endswith("python") and words[1] == "-m":
            module = ROOT / words[2].replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), words
        elif words[0].endswith("python"):
            assert Path(words[1]).is_file(), words


def commands(file: Path) -> Iterator[list[str]]:
    """The commands of a file's blocks, each as its words."""
    for block in blocks(file):
        if not COMMAND.match(block):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), ";"]:
                if word not in ("&&", "|", ";", "do"):
                    words.append(word)
                    continue
                while words and re.fullmatch(SETTING, words[0]):
                    del words[0]
                if words:
                    yield words
                words = []


def check(arguments: list[str]) -> None:
    """Parse a command of p2pz, and load the configuration that it gives. Fails where either is refused."""
    given = parsed(arguments, VERBS)
    verb = {"plan": "translate", "submit": getattr(given, "job", "translate")}.get(given.verb, given.verb)
    if verb in JOBS and (given.settings or verb == "serve"):
        settings = list(given.settings)
        path = settings.pop(0) if settings and "=" not in settings[0] else None
        if path != "CONFIG":
            load(path, settings, JOBS[verb])


@pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_link_and_heading_that_is_named_is_there(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for path in re.findall(r"(?:configs|cluster|jobs|tests|p2pz_ray)/[\w./-]+\.(?:py|yaml|json|md|png|jpg)\b", text):
        if not re.search(r"[A-Z]{4}", path.replace("README", "").replace("COST", "")):
            assert any((place / path).exists() for place in (ROOT, file.parent, ROOT / "p2pz_ray")), path
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        place = file.parent / name if name else file
        assert place.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], target


def test_every_test_that_is_named_is_there() -> None:
    for file in DOCS:
        for name in re.findall(r"\btest_\w+(?=[ ,|`])", file.read_text(encoding="utf-8")):
            assert (ROOT / "tests" / f"{name}.py").is_file(), (file, name)


def test_the_door_from_python(folder: Path, local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(example("import p2pz_ray"), names)
    assert names["summary"].ok == 2
    assert names["picture"].size == (64, 64)
    assert Run(str(folder / "runs/from-python")).finished
    assert "2 images in 1 Parquet file" in capsys.readouterr().out
    exec(example("import datasets").replace("RUN", "runs/from-python"), names)
    assert [pair["edited_image"].size for pair in names["pairs"]] == [(64, 64)] * 2


def test_a_stage_of_ray_data(folder: Path, local_ray: None) -> None:
    names: dict[str, Any] = {}
    # The workers of a Ray that was started elsewhere stand elsewhere.
    exec(example("import ray.data").replace('"runs/', f'"{folder}/runs/'), names)
    assert isinstance(names["pairs"], ray.data.Dataset)
    assert [row["status"] for row in names["pairs"].take_all()] == ["ok", "ok"]


def test_the_method_in_three_calls() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    names: dict[str, Any] = {"images": images, "captions": ["a cat on the grass"], "seeds": [0]}
    exec(example("from p2pz_ray import Editor"), names)
    assert names["edited"].shape == (1, 1, 64, 64, 3)


def test_a_student_of_one_edit_and_of_many(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    names: dict[str, Any] = {"images": images}
    exec(example("from p2pz_ray import Student").replace("OUTPUT/student", str(saved(tmp_path))), names)
    assert names["edited"].shape == images.shape
    names["student"] = Student.from_pretrained(str(many(tmp_path)))
    exec(example('student(images, edit="cat2dog", strength=0.5)'), names)


@pytest.mark.slow
def test_a_plan_with_hours_and_cost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(words for words in commands(ROOT / "README.md") if words[1:2] == ["plan"])
    command[2] = str(ROOT / command[2])
    assert main(command[1:]) == 0
    assert "images/s by one replica on cpu (2 images tried)" in capsys.readouterr().out
