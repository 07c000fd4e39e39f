"""Checkpoints of the later families' true layouts with a few random weights: Stable Diffusion 2.x and SDXL."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
POOLED = 24


def save_tiny_sd2(folder: Path, words: Path) -> Path:
    """v-prediction with a schedule that ends in pure noise, linear projections, a head width a block; `words` is a
    folder that holds a tokenizer."""
    torch.manual_seed(2)
    tokenizer = CLIPTokenizer.from_pretrained(words)
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        **NOISE,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    text = CLIPTextModel(_text(tokenizer, 24, hidden_act="gelu"))
    StableDiffusionPipeline(
        _vae(), text, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_tiny_sdxl(folder: Path, words: Path) -> Path:
    """Two text encoders, pooled embeddings, size conditioning, no attention at the finest level and more than one
    transformer layer at the coarsest."""
    torch.manual_seed(3)
    first = CLIPTokenizer.from_pretrained(words)
    second = CLIPTokenizer.from_pretrained(words, pad_token="!" if "!" in first.get_vocab() else "a</w>")
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=16 + 24,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
        norm_num_groups=8,
    )
    StableDiffusionXLPipeline(
        _vae(force_upcast=True),
        CLIPTextModel(_text(first, 16, num_hidden_layers=2)),
        CLIPTextModelWithProjection(_text(second, 24, num_hidden_layers=2, hidden_act="gelu", projection_dim=POOLED)),
        first,
        second,
        unet,
        EulerDiscreteScheduler(**NOISE),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def as_refiner(model: Path, folder: Path) -> Path:
    """An SDXL checkpoint without its first text encoder, as SDXL's refiner has none."""
    shutil.copytree(model, folder)
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    index = folder / "model_index.json"
    text = index.read_text()
    for part, kind in (("text_encoder", "CLIPTextModel"), ("tokenizer", "CLIPTokenizer")):
        text = text.replace(f'"{part}": [\n    "transformers",\n    "{kind}"', f'"{part}": [\n    null,\n    null')
    index.write_text(text)
    return folder


def _vae(**settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        **settings,
    )


def _text(tokenizer: CLIPTokenizer, width: int, **settings: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer.get_vocab()),
        hidden_size=width,
        intermediate_size=32,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"num_hidden_layers": 1} | settings),
    )
