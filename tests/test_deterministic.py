"""`deterministic` is in force wherever a run computes, and the run says so."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from tiny_job import tiny_settings, translated

from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.engine import Diffusion


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)


def ambiguous(self: Diffusion, pictures: list[Any]) -> Any:
    """Writes twice into one place, which only one order of writing decides."""
    torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    return edit(self, pictures)


edit = Diffusion.edit


def test_an_edit_that_could_end_in_two_ways_is_an_error_and_the_run_says_that_it_is_deterministic(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tiny_settings(tmp_path, tiny_model, images=2, per_partition=2)
    plain = translated(given)
    assert not torch.are_deterministic_algorithms_enabled()
    same = translated({**given, "deterministic": True, "output": str(tmp_path / "same")})
    assert {row["status"] for row in same.values()} == {"ok"}
    assert same.keys() == plain.keys()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert yaml.safe_load((tmp_path / "same" / "config.yaml").read_text())["deterministic"] is True
    monkeypatch.setattr(Diffusion, "edit", ambiguous)
    rows = translated({**given, "deterministic": True, "output": str(tmp_path / "ambiguous")})
    assert all("deterministic" in row["error"] for row in rows.values())


def test_batches_of_any_size_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    given = tiny_settings(tmp_path, tiny_model, images=2, per_partition=2)
    with pytest.raises(ValidationError, match="give batch_size a number"):
        TranslateConfig.model_validate({**given, "deterministic": True, "batch_size": None})
