"""What a training shows elsewhere while it goes on: TensorBoard's files beside it, Weights & Biases where installed."""

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from small_run import examples, write_truth
from test_distill import config, settings

from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.distill.run import distill
from p2pz_ray.errors import ConfigError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("world") / "scenes.parquet"
    write_truth(file, examples(12))
    return file


def shown_on(table: Path, out: Path, steps: int, **boards: Any) -> DistillConfig:
    given = settings(table, out, steps)
    return DistillConfig.model_validate({**given, "training": {**given["training"], **boards}})


class FakeRuns:
    """Weights & Biases as far as a training calls it, keeping what it is told."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.told: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def module(self) -> types.ModuleType:
        made = types.ModuleType("wandb")
        made.__spec__ = ModuleSpec("wandb", None)
        made.__dict__.update(init=self.init, Image=lambda pixels: pixels.shape)
        return made

    def init(self, **options: Any) -> "FakeRuns":
        self.begun.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_is_told_losses_scores_and_sheets_of_one_run(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns()
    monkeypatch.setitem(sys.modules, "wandb", fake.module())
    distill(shown_on(table, tmp_path / "out", 4, wandb="students"))
    distill(shown_on(table, tmp_path / "out", 8, wandb="students"))
    first, second = fake.begun
    assert (first["project"], first["resume"]) == ("students", "allow")
    assert first["id"] == second["id"]
    assert first["config"]["training"]["batch"] == 8
    named = {(step, name) for step, values in fake.told for name in values}
    for step in (2, 4, 6, 8):
        assert (step, "loss/l1") in named
    assert {(4, "scores/error"), (8, "scores/error"), (8, "source, teacher, student")} <= named
    assert fake.finished == 2


def test_tensorboards_files_stand_beside_the_training(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    distill(shown_on(table, tmp_path / "out", 4, tensorboard=True))
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(("name", "setting"), [("tensorboard", True), ("wandb", "students")])
def test_what_is_asked_for_and_not_installed_is_named_before_anything_is_written(
    table: Path, tmp_path: Path, name: str, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else find(wanted))
    with pytest.raises(ConfigError, match=rf"training\.{name} is set, but {name} isn't installed: pip install {name}"):
        distill(shown_on(table, tmp_path / "out", 4, **{name: setting}))
    assert not (tmp_path / "out").exists()


def test_nothing_is_shown_where_nothing_is_asked_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns()
    monkeypatch.setitem(sys.modules, "wandb", fake.module())
    distill(config(table, tmp_path / "out", 2))
    assert fake.begun == []
    assert not (tmp_path / "out" / "tensorboard").exists()
