"""The UNet: predicts the noise in latents, conditioned on the caption by CLIP's text encoder."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from p2pz_ray.mini.training.captions import Captions
from p2pz_ray.mini.training.clip import trained_text
from p2pz_ray.mini.training.data import Recipe, batches, drawn
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, bfloat16_pays, compiled, processor, train
from p2pz_ray.mini.training.muon import optimizers
from p2pz_ray.mini.training.noise import build_scheduler, denoising_loss, noised
from p2pz_ray.mini.training.pipeline import samples
from p2pz_ray.mini.training.vae import latents

SHEETS = 4
"""Sample sheets in a training, the last one at its end."""


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    channels = tuple(recipe["unet"]["channels"])
    unet = UNet2DConditionModel(
        sample_size=recipe["size"] // 4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=recipe["text"]["width"],
        # diffusers reads this as the number of heads when it is given as a tuple for this class
        attention_head_dim=tuple(c // recipe["unet"]["head_width"] for c in channels),
        norm_num_groups=16,
    )
    return unet.to(memory_format=torch.channels_last)


def train_unet(recipe: Recipe, out: Path) -> None:
    settings, seed = recipe["unet"], recipe["seed"]
    images, scenes = drawn(recipe, out)
    mean = latents(recipe, images, out).chunk(2, dim=1)[0].to(processor())  # edits encode to the mean too
    scale = 1 / mean.std().item()
    (out / "scale.json").write_text(json.dumps(scale))
    text = trained_text(recipe, out)[1].to(processor())
    captions = Captions(recipe, out, scenes, settings["dropout"])
    torch.manual_seed(seed)
    unet = build_unet(recipe)
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, latent scale {scale:.4f}", flush=True)
    unet.to(processor())
    ema = copy.deepcopy(unet).requires_grad_(False)
    moving = optimizers(unet.named_parameters(), decay=1e-2)
    alphas = build_scheduler().alphas_cumprod.to(processor())
    compiled(unet, settings)

    def prepare(start: int) -> Any:
        draws = batches(len(images), settings["batch"], seed, start)

        def loss_at(step: int) -> tuple[torch.Tensor, Numbers]:
            index = next(draws)
            with torch.no_grad():
                c = text(captions(index)).last_hidden_state
            x0 = scale * mean[index]
            x, t, noise = noised(x0, alphas)
            return denoising_loss(unet(x, t, c).sample, noise, alphas[t], settings["min_snr"])

        return loss_at

    @torch.no_grad()
    def average(step: int) -> None:
        decay = min(settings["ema"], (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.parameters()), list(unet.parameters()), 1 - decay)

    def saved(step: int) -> None:
        if step % max(1, settings["steps"] // SHEETS) == 0:
            samples(recipe, out, ema)

    checkpoint = Checkpoint(out / "unet.pt", unet=unet, ema=ema, **moving)
    train(settings, checkpoint, prepare, seed=seed, bfloat16=bfloat16_pays(), after=average, saved=saved)
