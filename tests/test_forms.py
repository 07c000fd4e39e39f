"""The forms in which people hold a checkpoint: each loads and edits as the plain one does, or says what it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_families import save_tiny_sdxl
from torch import Tensor
from transformers import CLIPTokenizer

from p2pz_ray import Editor, InversionSettings
from p2pz_ray.editing.checkpoint.lora import Lora
from p2pz_ray.editing.checkpoint.weights import wanted
from p2pz_ray.editing.text import TextEncoder
from p2pz_ray.errors import ConfigError

UNET, VAE, TEXT = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
TEXT_LAYER = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def latents(editor: Editor) -> Tensor:
    editor.inversion = InversionSettings(steps=2)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    inversion = editor.invert(pictures, ["a cat"], [1])
    return editor.edit_latents(inversion, [editor.direction(["a cat"], ["a dog"])])


def in_halves(folder: Path) -> None:
    """Give every part an fp16 variant."""
    for part in (UNET, VAE, TEXT):
        whole = load_file(folder / f"{part}.safetensors")
        halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
        save_file(halves, folder / f"{part}.fp16.safetensors", {"format": "pt"})


def test_half_precision_takes_the_half_files_and_whole_precision_the_whole_ones(folder: Path) -> None:
    in_halves(folder)
    right = {name: tensor.clone() for name, tensor in load_file(folder / f"{UNET}.safetensors").items()}
    (folder / f"{UNET}.safetensors").write_bytes(b"nothing")
    half = Editor.from_pretrained(folder, dtype=torch.float16).model.unet
    assert all(torch.equal(half.get_parameter(name), tensor.half()) for name, tensor in right.items())
    with pytest.raises(ConfigError, match="can't be loaded"):
        Editor.from_pretrained(folder)
    save_file(right, folder / f"{UNET}.safetensors", {"format": "pt"})
    whole = Editor.from_pretrained(folder).model.unet
    assert all(torch.equal(whole.get_parameter(name), tensor) for name, tensor in right.items())


def test_a_repository_that_has_only_the_variant_loads_at_any_precision(folder: Path) -> None:
    in_halves(folder)
    for part in (UNET, VAE, TEXT):
        (folder / f"{part}.safetensors").unlink()
    for dtype in (torch.float32, torch.bfloat16):
        editor = Editor.from_pretrained(folder, dtype=dtype)
        assert editor.model.unet.dtype == dtype
        assert editor.model.text.encoder[0].dtype == torch.float32
        assert torch.isfinite(latents(editor)).all()


def test_sharded_weights_load(folder: Path, tiny_model: Path) -> None:
    UNet2DConditionModel.from_pretrained(folder / "unet").save_pretrained(folder / "sharded", max_shard_size="40KB")
    (folder / "sharded" / "config.json").rename(folder / "unet" / "config.json")
    (folder / f"{UNET}.safetensors").unlink()
    shards = list((folder / "sharded").iterdir())
    assert len(shards) > 2
    for file in shards:
        file.rename(folder / "unet" / file.name)
    assert torch.equal(latents(Editor.from_pretrained(folder)), latents(Editor.from_pretrained(tiny_model)))


def test_bin_files_and_missing_ones_are_each_a_sentence(folder: Path) -> None:
    (folder / f"{UNET}.safetensors").rename(folder / f"{UNET}.bin")
    with pytest.raises(ConfigError, match=r"unet holds its weights as \.bin, .*convert it once"):
        Editor.from_pretrained(folder)
    (folder / f"{UNET}.bin").unlink()
    with pytest.raises(ConfigError, match=r"unet has no weights"):
        Editor.from_pretrained(folder)


def test_of_a_hubs_repository_only_what_an_edit_needs_is_wanted() -> None:
    """Its files as Stable Diffusion's own repositories have them."""
    plain = [
        "model_index.json", "editing.json", "unet/config.json", "vae/config.json", "tokenizer/vocab.json",
        "tokenizer/merges.txt", "scheduler/scheduler_config.json", "text_encoder/config.json",
    ]  # fmt: skip
    weights = [f"{part}{v}.{k}" for part in (UNET, VAE, TEXT) for v in ("", ".fp16") for k in ("safetensors", "bin")]
    weights += [f"{UNET}.non_ema.safetensors", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt"]
    others = ["safety_checker/config.json", "safety_checker/model.safetensors", "README.md"]
    whole = wanted([*plain, *weights, *others], False, "sd15")
    assert sorted(whole) == sorted([*plain, *(f"{part}.safetensors" for part in (UNET, VAE, TEXT))])
    half = set(wanted([*plain, *weights, *others], True, "sd15")) - set(plain)
    assert half == {f"{UNET}.fp16.safetensors", f"{VAE}.fp16.safetensors", f"{TEXT}.safetensors"}
    with pytest.raises(ConfigError, match=r"sd15/unet holds its weights as \.bin"):
        wanted([*plain, f"{UNET}.bin", f"{VAE}.safetensors"], False, "sd15")
    shards = [f"{UNET}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert set(shards) <= set(wanted([*plain, *shards], False, "xl"))


def test_a_tokenizer_without_a_length_takes_the_text_models_own(folder: Path, tiny_model: Path) -> None:
    file = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["model_max_length"]
    file.write_text(json.dumps(config))
    assert CLIPTokenizer.from_pretrained(folder / "tokenizer").model_max_length > 10**6
    found, right = (TextEncoder.load(each).embed(["a cat"]).tokens for each in (folder, tiny_model))
    assert torch.equal(found, right)


def test_another_autoencoder_is_part_of_the_identity(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    plain = Editor.from_pretrained(tiny_model)
    torch.manual_seed(5)
    other = AutoencoderKL.from_config(plain.model.vae.config)
    other.save_pretrained(tmp_path / "vae")
    mixed = Editor.from_pretrained(tiny_model, vae=str(tmp_path / "vae"))
    assert torch.equal(mixed.model.vae.encoder.conv_in.weight, other.encoder.conv_in.weight)
    assert mixed.fingerprint != plain.fingerprint
    own = Editor.from_pretrained(tiny_model, vae=str(folder))  # of a whole checkpoint, its autoencoder
    assert torch.equal(own.model.vae.encoder.conv_in.weight, plain.model.vae.encoder.conv_in.weight)
    with pytest.raises(ConfigError, match="isn't an autoencoder's folder"):
        Editor.from_pretrained(tiny_model, vae=str(tmp_path / "nowhere"))


def lora_file(file: Path, form: str, rank: int = 2) -> dict[str, Tensor]:
    """A LoRA of one layer of the UNet and one of the text encoder; what it adds to their weights at scale 1."""
    draw = torch.Generator().manual_seed(3)
    tensors, delta = {}, {}
    for part, layer, out, inner in (("unet", LAYER, 16, 16), ("text_encoder", TEXT_LAYER, 16, 16)):
        down, up = torch.randn(rank, inner, generator=draw), torch.randn(out, rank, generator=draw)
        if form == "peft":
            tensors |= {f"{part}.{layer}.lora_A.weight": down, f"{part}.{layer}.lora_B.weight": up}
            delta[part] = up @ down
        else:
            stem = ("lora_unet_" if part == "unet" else "lora_te_") + layer.replace(".", "_")
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
            delta[part] = up @ down / rank
    save_file(tensors, file)
    return delta


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_a_lora_is_fused_into_both_halves_and_is_part_of_the_identity(
    tiny_model: Path, tmp_path: Path, form: str
) -> None:
    delta = lora_file(tmp_path / "lora.safetensors", form)
    plain = Editor.from_pretrained(tiny_model)
    fused = Editor.from_pretrained(tiny_model, loras=[Lora(tmp_path / "lora.safetensors", 0.5)])
    before, after = (each.model.unet.get_submodule(LAYER).weight for each in (plain, fused))
    torch.testing.assert_close(after - before, 0.5 * delta["unet"])

    def text(editor: Editor) -> Tensor:
        named = dict(editor.model.text.encoder[0].named_parameters())
        [weight] = [p for name, p in named.items() if name.endswith("layers.0.self_attn.q_proj.weight")]
        return weight

    torch.testing.assert_close(text(fused) - text(plain), 0.5 * delta["text_encoder"])
    stronger = Editor.from_pretrained(tiny_model, loras=[Lora(tmp_path / "lora.safetensors", 1.0)])
    assert len({each.fingerprint for each in (plain, fused, stronger)}) == 3


def test_a_lora_of_another_model_or_of_another_form_is_refused(
    tiny_model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "lora.safetensors"
    weights = {"lora_down.weight": torch.zeros(2, 16), "lora_up.weight": torch.zeros(16, 2)}
    for tensors, says in (
        ({f"lora_unet_input_blocks_4.{name}": t for name, t in weights.items()}, "unet has no layer input_blocks_4"),
        ({f"unet.{LAYER}.hada_w1_a": torch.zeros(2)}, "which isn't a pair of low-rank weights"),
        ({f"other.{name}": t for name, t in weights.items()}, "belongs to no UNet or text encoder"),
    ):
        save_file(tensors, file)
        with pytest.raises(ConfigError, match=says):
            Editor.from_pretrained(tiny_model, loras=[Lora(file)])
    lora_file(file, "peft")
    sdxl = save_tiny_sdxl(tmp_path_factory.mktemp("xl"), tiny_model / "tokenizer")
    with pytest.raises(ConfigError, match="is for another model"):
        Editor.from_pretrained(sdxl, loras=[Lora(file)])
    with pytest.raises(ConfigError, match=r"absent\.safetensors can't be read"):
        Editor.from_pretrained(tiny_model, loras=[Lora(tmp_path / "absent.safetensors")])
