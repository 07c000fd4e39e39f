"""What the README shows is run as it stands."""

import re
import textwrap
from pathlib import Path

import pytest
import ray.data

from p2pz_ray.cli import main
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.run import Run

README = (Path(__file__).parents[1] / "README.md").read_text()


def example(first: str) -> str:
    """The indented block that begins with a line."""
    start = README.index(f"    {first}\n")
    block = re.match(r"(?:    .*\n|\n(?=\n*    ))+", README[start:])
    assert block is not None
    return textwrap.dedent(block[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with the collection that the examples name, but smaller."""
    monkeypatch.chdir(tmp_path)
    write_world("runs/world-cat2dog", 2, seed=0, edits=("cat2dog",))
    return tmp_path


def test_the_door_from_python(folder: Path, local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(example("import p2pz_ray"), names)
    assert names["summary"].ok == 2
    assert names["picture"].size == (64, 64)
    assert Run(str(folder / "runs/from-python")).finished
    assert "2 images in 1 Parquet file" in capsys.readouterr().out


def test_a_stage_of_ray_data(folder: Path, local_ray: None) -> None:
    names: dict[str, object] = {}
    # The workers of a Ray that was started elsewhere stand elsewhere.
    exec(example("import ray.data").replace('"runs/', f'"{folder}/runs/'), names)
    assert isinstance(names["pairs"], ray.data.Dataset)
    assert [row["status"] for row in names["pairs"].take_all()] == ["ok", "ok"]


@pytest.mark.slow
def test_a_plan_with_hours_and_cost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = example("p2pz plan configs/mini/cat2dog.yaml --measure 4 --price 2.5").split()
    command[2] = str(Path(__file__).parents[1] / command[2])
    assert main(command[1:]) == 0
    assert "images/s by one replica on cpu (2 images tried)" in capsys.readouterr().out
