"""The trained parts as a stock diffusers pipeline, and sample pictures during training."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from p2pz_ray.mini.training.clip import trained_text
from p2pz_ray.mini.training.data import Recipe, sheet
from p2pz_ray.mini.training.loop import processor
from p2pz_ray.mini.training.noise import build_scheduler
from p2pz_ray.mini.training.vae import trained_vae
from p2pz_ray.mini.world import KINDS, caption, sample_scene


def assembled(recipe: Recipe, out: Path, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A pipeline of this UNet with the autoencoder and the text encoder that it was trained on."""
    vae = trained_vae(recipe, out)
    vae.register_to_config(scaling_factor=json.loads((out / "scale.json").read_text()))
    tokenizer, text = trained_text(recipe, out)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def samples(recipe: Recipe, out: Path, unet: UNet2DConditionModel, guidance: float = 5.0) -> None:
    """Text to image for every animal on held-out scenes, by the stock pipeline: `out`/unet.png."""
    pipeline = assembled(recipe, out, unet).to(processor())
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(7)
    texts = [caption(sample_scene(rng, held_out=True, kind=k), rng) for k in KINDS for _ in range(4)]
    generator, size = torch.Generator().manual_seed(7), recipe["size"]
    made = pipeline(texts, size, size, 25, guidance_scale=guidance, generator=generator, output_type="pt").images
    sheet(made.float() * 2 - 1, out / "unet.png")
