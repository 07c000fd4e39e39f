"""A checkpoint is its contents: all that is loaded of it, and nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from p2pz_ray.editing.checkpoint import files as checkpoint
from p2pz_ray.editing.checkpoint.files import fingerprint, identity

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


def test_a_part_that_has_half_precision_alone_is_loaded_from_it(model: Path) -> None:
    half = model / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    (model / UNET).rename(half)
    before = fingerprint(model)
    half.write_bytes(half.read_bytes() + b"\0")
    assert fingerprint(model) != before
    after = fingerprint(model)
    shutil.copy(half, model / UNET)
    assert fingerprint(model) != after
    whole = fingerprint(model)
    half.write_bytes(b"another")
    assert fingerprint(model) == whole


def test_an_autoencoder_has_a_fingerprint_of_its_own_and_changes_the_checkpoints(model: Path) -> None:
    vae = model / "vae"
    assert len({fingerprint(model), fingerprint(vae), identity(model, vae)}) == 3
    before = identity(model, vae)
    (vae / "README.md").write_text("another")
    (vae / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another")
    assert identity(model, vae) == before
    other = shutil.copytree(vae, model.parent / "vae")
    assert identity(model, other) == before
    weights = other / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert fingerprint(other) != fingerprint(vae)
    assert identity(model, other) != before


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
