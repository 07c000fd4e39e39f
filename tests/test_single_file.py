"""One .safetensors file as a checkpoint: it edits as its folder does, or says what it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original_layout import save_single_file
from safetensors.torch import load_file, save_file
from tiny_families import save_tiny_sd2, save_tiny_sdxl
from tiny_job import tiny_settings, translated
from torch import Tensor

from p2pz_ray import Editor, InversionSettings
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing.checkpoint import files as checkpoint
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.translation.prepare import prepare

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made, words = tmp_path_factory.mktemp("families"), tiny_model / "tokenizer"
    return {
        "sd1": tiny_model,
        "sd2": save_tiny_sd2(made / "sd2", words),
        "sdxl": save_tiny_sdxl(made / "sdxl", words),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2PZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def latents(editor: Editor) -> Tensor:
    editor.inversion = InversionSettings(steps=2)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    inversion = editor.invert(pictures, ["a cat"], [1])
    return editor.edit_latents(inversion, [editor.direction(["a cat"], ["a dog"])])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_file_edits_as_its_folder_does_bit_for_bit(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    """Without any weights in the folder whose configurations it takes."""
    folder = folders[family]
    file = save_single_file(folder, tmp_path / "model.safetensors")
    layout = tmp_path / "layout"
    for text in (*folder.rglob("*.json"), *folder.rglob("*.txt")):
        (layout / text.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (layout / text.relative_to(folder)).write_bytes(text.read_bytes())
    assert torch.equal(
        latents(Editor.from_pretrained(file, layout=str(layout))), latents(Editor.from_pretrained(folder))
    )


def test_a_file_is_unpacked_once_and_its_contents_are_its_identity(
    folders: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    layout = str(folders["sd1"])
    file = save_single_file(folders["sd1"], tmp_path / "model.safetensors")
    described = locate(file, layout=layout, parts=())
    assert not list(described.rglob("*.safetensors"))
    first = Editor.from_pretrained(file, layout=layout)
    weights = {each: each.stat().st_mtime_ns for each in described.rglob("*.safetensors")}
    assert len(weights) == 3
    assert Editor.from_pretrained(file, layout=layout).fingerprint == first.fingerprint
    assert {each: each.stat().st_mtime_ns for each in described.rglob("*.safetensors")} == weights
    copy = Path(tmp_path / "elsewhere.safetensors")
    copy.write_bytes(file.read_bytes())
    assert Editor.from_pretrained(copy.as_uri(), layout=layout).fingerprint == first.fingerprint
    tensors = load_file(file)
    save_file(tensors | {CONV_IN: tensors[CONV_IN] + 1}, file)
    assert Editor.from_pretrained(file, layout=layout).fingerprint != first.fingerprint


def test_a_file_that_says_it_predicts_v_is_taken_at_its_word(folders: dict[str, Path], tmp_path: Path) -> None:
    said = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = save_single_file(folders["sdxl"], tmp_path / "model.safetensors", **said)
    model = Editor.from_pretrained(file, layout=str(folders["sdxl"])).model
    assert model.prediction == "v_prediction"
    assert float(model.scheduler.alphas_cumprod[-1]) < 1e-6


def test_a_run_over_a_file_and_its_pictures_are_the_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    """Replicas unpack it for themselves; the driver has its configurations checked and nothing else."""
    file = save_single_file(folders["sd1"], tmp_path / "model.safetensors")
    given = tiny_settings(tmp_path, folders["sd1"], images=2, per_partition=2)
    right = translated(given)
    named = {"name": str(file), "layout": str(folders["sd1"])}
    rows = translated({**given, "model": named, "output": str(tmp_path / "file")})
    assert len(rows) == 4
    for key, row in rows.items():  # whose marks name the checkpoint
        made, wanted = (decode(each["edited_image"]["bytes"], DecodePolicy((64, 64))) for each in (row, right[key]))
        assert np.array_equal(made, wanted)


def test_the_layout_of_a_family_comes_from_the_hub_unless_one_is_named(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hub(name: str, *_: Any) -> Path:
        asked.append(name)
        raise ConfigError("no hub")

    monkeypatch.setattr(checkpoint, "_from_hub", hub)
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    for width, name in ((768, "stable-diffusion-v1-5"), (1024, "stable-diffusion-2-1"), (2048, "xl-base")):
        tensors = {CONV_IN: torch.zeros(8, 4, 3, 3), key: torch.zeros(8, width)}
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(ConfigError, match=r"is a single file of .*set model\.layout to the folder or") as caught:
            locate(tmp_path / "model.safetensors")
        assert name in asked[-1]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({CONV_IN: torch.zeros(16, 9, 3, 3)}, r"unet's conv_in\.weight in the shape \[16, 9, 3, 3\]"),
        ({"first_stage_model.encoder.conv_in.weight": None}, r"lacks the vae's encoder\.conv_in\.weight"),
        ({"first_stage_model.*": None}, r"is without its vae: the file holds no first_stage_model\."),
        ({"cond_stage_model.*": None}, "is without its text_encoder"),
    ],
)
def test_a_weight_that_the_layout_asks_for_is_never_made_up(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Tensor | None], says: str
) -> None:
    """And the sentence comes before Ray starts."""
    tensors = load_file(save_single_file(folders["sd1"], tmp_path / "model.safetensors"))
    for name, tensor in changes.items():
        tensors = {key: kept for key, kept in tensors.items() if key != name and not key.startswith(name.rstrip("*"))}
        tensors |= {} if tensor is None else {name: tensor}
    save_file(tensors, tmp_path / "model.safetensors")
    given = tiny_settings(tmp_path, folders["sd1"], images=2, per_partition=2)
    given["model"] = {"name": str(tmp_path / "model.safetensors"), "layout": str(folders["sd1"])}
    with pytest.raises(ConfigError, match=says):
        prepare(TranslateConfig.model_validate(given))


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        (CONV_IN, (8, 9, 3, 3), "for inpainting"),
        (CONV_IN, (8, 8, 3, 3), "InstructPix2Pix"),
        (CONV_IN, (8, 4, 3, 3), "attends to texts of width none"),
        ("lora_unet_mid_block.lora_down.weight", (2, 2), r"a LoRA: name it in model\.loras"),
        ("model.diffusion_model.joint_blocks.0.weight", (2, 2), "SD3: it has a transformer"),
        ("double_blocks.0.img_attn.qkv.weight", (2, 2), "FLUX: it has a transformer"),
        ("down_blocks.0.resnets.0.conv1.weight", (2, 2), "only one part of a checkpoint in diffusers' layout"),
        ("weight", (2, 2), "not a Stable Diffusion checkpoint: it holds no UNet"),
    ],
)
def test_what_a_file_is_stands_in_the_sentence(tmp_path: Path, name: str, shape: tuple[int, ...], says: str) -> None:
    save_file({name: torch.zeros(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=says):
        Editor.from_pretrained(tmp_path / "model.safetensors")


def test_other_files_and_idle_layouts_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, layout, says in (
        ("sd15.ckpt", None, "is a pickle"),
        (tmp_path / "absent.safetensors", None, "isn't a file on this machine"),
        (tmp_path / "broken.safetensors", None, "can't be read as safetensors"),
        (tiny_model, "mini", r"model\.layout is mini, but model .* has its own"),
    ):
        with pytest.raises(ConfigError, match=says):
            locate(name, layout=layout)
