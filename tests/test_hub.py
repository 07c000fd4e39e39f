"""A checkpoint on the hub: what is fetched of it, once, at one commit; and a sentence for each way it can fail.

The hub stands on loopback; its client is the real one.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hub_server import Hub
from safetensors.torch import load_file, save_file
from tiny_job import tiny_settings

from p2pz_ray import Editor
from p2pz_ray.config import DirectionConfig, TranslateConfig
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.engines.direction import write_direction
from p2pz_ray.errors import ConfigError
from p2pz_ray.translation.ingredients import Ingredients, Wanted, found_here
from p2pz_ray.translation.prepare import prepare

NAME = "stable/one"
PARTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")


@pytest.fixture
def repository(tiny_model: Path, tmp_path: Path) -> Path:
    """Laid out as Stable Diffusion 1.5's: whole and half weights, .bin, a safety checker, single files."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "repository"))
    for part in PARTS:
        whole = load_file(folder / f"{part}.safetensors")
        halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
        save_file(halves, folder / f"{part}.fp16.safetensors", {"format": "pt"})
        (folder / f"{part}.bin").write_bytes(b"a pickle")
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"large")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"larger")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"unasked")
    (folder / "editing.json").write_text('{"steps": 3}')
    return folder


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """A function that starts a hub, which the client then takes for the hub."""
    running: list[Hub] = []

    def start(*args: Any, **given: Any) -> Hub:
        hub = Hub(*args, **given)
        running.append(hub)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        return hub

    yield start
    for hub in running:
        hub.close()


def test_only_what_an_edit_needs_is_fetched_once_and_at_the_commit(
    served: Callable[..., Hub], repository: Path, tiny_model: Path
) -> None:
    hub = served({NAME: repository})
    for _ in range(2):
        editor = Editor.from_pretrained(NAME)
    assert locate(NAME).name == hub.commit(NAME)
    assert editor.model.defaults == {"steps": 3}
    assert torch.equal(editor.model.unet.conv_in.weight, Editor.from_pretrained(tiny_model).model.unet.conv_in.weight)
    assert set(hub.fetched.values()) == {1}
    names = {file.removeprefix(f"{NAME}/") for file in hub.fetched}
    assert {name for name in names if name.endswith("s")} == {f"{part}.safetensors" for part in PARTS}
    assert not [name for name in names if name.startswith("safety_checker")]


def test_a_driver_fetches_configurations_alone_and_a_direction_the_text_half_alone(
    served: Callable[..., Hub], repository: Path, tmp_path: Path
) -> None:
    hub = served({NAME: repository})
    given = tiny_settings(tmp_path, Path(NAME), images=1)

    def find(wanted: Wanted) -> Ingredients:
        before = {file for file in hub.fetched if file.endswith("safetensors")}
        assert not before
        found = found_here(wanted)
        assert wanted.model.revision == hub.commit(NAME)
        return found

    prepared = prepare(TranslateConfig.model_validate(given), find)
    assert prepared is not None
    weights = {file.removeprefix(f"{NAME}/") for file in hub.fetched if file.endswith(".safetensors")}
    assert weights == {f"{part}.safetensors" for part in PARTS}
    hub.fetched.clear()
    shutil.rmtree(tmp_path / "cache")
    write_direction(DirectionConfig(model=NAME, source="cat", target="dog", output=str(tmp_path / "d"), count=2))
    weights = {file.removeprefix(f"{NAME}/") for file in hub.fetched if file.endswith(".safetensors")}
    assert weights == {"text_encoder/model.safetensors"}


def test_half_precision_fetches_the_half_weights(served: Callable[..., Hub], repository: Path) -> None:
    hub = served({NAME: repository})
    assert Editor.from_pretrained(NAME, dtype=torch.bfloat16).model.unet.dtype == torch.bfloat16
    weights = {file.removeprefix(f"{NAME}/") for file in hub.fetched if file.endswith(".safetensors")}
    assert weights == {f"{PARTS[0]}.fp16.safetensors", f"{PARTS[1]}.fp16.safetensors", f"{PARTS[2]}.safetensors"}


def test_absent_gated_a_wrong_revision_and_no_network_are_four_sentences(
    served: Callable[..., Hub], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = served({NAME: repository, "closed/one": repository}, gated=("closed/one",))
    said = []
    for name, revision, says in (
        ("nobody/nothing", None, "nor on the hub, or it is private"),
        ("closed/one", None, "is gated: accept its terms"),
        (NAME, "v9", "has no revision v9"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            locate(name, revision)
        said.append(str(caught.value))
    hub.close()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="nor in the hub client's cache, and the hub can't be reached") as caught:
        locate(NAME)
    said.append(str(caught.value))
    assert not [sentence for sentence in said if "\n" in sentence]


def test_without_a_network_what_was_fetched_is_there(
    served: Callable[..., Hub], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served({NAME: repository})
    folder = locate(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert locate(NAME) == folder
    Editor.from_pretrained(NAME)


def test_an_ill_hub_is_asked_again(served: Callable[..., Hub], repository: Path) -> None:
    """Every tenth answer is a 503 or a 429."""
    hub = served({NAME: repository}, ill=10)
    assert torch.isfinite(Editor.from_pretrained(NAME).model.unet.conv_in.weight).all()
    assert hub.answers > 10
