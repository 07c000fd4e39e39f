"""A checkpoint is its contents: all that is loaded of it, and nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from p2pz_ray.editing import checkpoint
from p2pz_ray.editing.checkpoint import fingerprint

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def test_another_last_layer_is_another_checkpoint(model: Path) -> None:
    before = fingerprint(model)
    weights = load_file(model / UNET)
    with safe_open(model / UNET, "pt") as file:
        kept, *_, last = file.metadata(), *file.keys()
    weights[last] = weights[last] + 1
    size = (model / UNET).stat().st_size
    save_file(weights, model / UNET, kept)
    assert (model / UNET).stat().st_size == size
    assert fingerprint(model) != before


@pytest.mark.parametrize("file", ["vae/config.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"])
def test_every_setting_that_is_loaded_counts(model: Path, file: str) -> None:
    before = fingerprint(model)
    with (model / file).open("a") as opened:
        opened.write("\n")
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "safety_checker/model.safetensors",
        "v1-5-pruned.safetensors",
        "README.md",
        "unet/notes.txt",
    ],
)
def test_what_is_not_loaded_changes_nothing(model: Path, file: str) -> None:
    before = fingerprint(model)
    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_bytes(b"another")
    assert fingerprint(model) == before


def test_a_checkpoint_is_read_once_and_again_after_a_change(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = checkpoint.hashlib.file_digest
    monkeypatch.setattr(
        checkpoint.hashlib, "file_digest", lambda file, name: (read.append(file.name), digest(file, name))[1]
    )
    before = fingerprint(model)
    many = len(read)
    assert fingerprint(model) == before
    assert len(read) == many
    (model / UNET).write_bytes((model / UNET).read_bytes() + b"\0")
    assert fingerprint(model) != before
    assert read[many:] == [str(model / UNET)]


def test_the_hubs_own_names_stand_for_what_they_hold(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(model)
    blobs = model.parent / "blobs"
    blobs.mkdir()
    name = checkpoint._sha256(model / UNET, 0, 0)
    (model / UNET).rename(blobs / name)
    (model / UNET).symlink_to(blobs / name)
    opened = Path.open

    def elsewhere(self: Path, *given: Any, **named: Any) -> Any:
        assert self.parent != blobs
        return opened(self, *given, **named)

    monkeypatch.setattr(Path, "open", elsewhere)
    assert fingerprint(model) == before
