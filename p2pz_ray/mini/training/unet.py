"""The UNet: predicts the noise in latents, told by CLIP's text half what the scene is."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel

from p2pz_ray.mini.training.captions import Captions
from p2pz_ray.mini.training.clip import trained_text
from p2pz_ray.mini.training.data import Recipe, batches, drawn
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, bfloat16_pays, compiled, processor, train
from p2pz_ray.mini.training.muon import optimizers
from p2pz_ray.mini.training.vae import latents

SHEETS = 4
"""Sample sheets of a training, the last when it ends."""


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


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule. Its few steps begin at the last timestep and waste none at the first
    (Lin et al. 2023, "trailing")."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )


def noised(x0: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents (B, 4, h, w) at drawn levels of noise, the timesteps (B,) of those, and the noise."""
    noise = torch.randn_like(x0)
    # One timestep from each of B equal strata: less variance than independent draws.
    strata = torch.randperm(len(x0), device=x0.device)
    t = ((strata + torch.rand_like(x0[:, 0, 0, 0])) / len(x0) * len(alphas)).long()
    a = alphas[t][:, None, None, None]
    return (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last), t, noise


def denoising_loss(
    said: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor, min_snr: float
) -> tuple[torch.Tensor, Numbers]:
    """Of a prediction of the noise, weighted by the signal's share at each row's level (Hang et al. 2023, min-SNR)."""
    error = F.mse_loss(said.float(), noise, reduction="none").mean((1, 2, 3))
    snr = alphas / (1 - alphas)
    return (error * snr.clamp(max=min_snr) / snr).mean(), {"error": error.mean().detach()}


def train_unet(recipe: Recipe, out: Path) -> None:
    from p2pz_ray.mini.training.export import samples

    settings, seed = recipe["unet"], recipe["seed"]
    images, scenes = drawn(recipe, out)
    mean = latents(recipe, images, out).chunk(2, dim=1)[0].to(processor())  # what an edit begins with
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
            samples(recipe, out)

    checkpoint = Checkpoint(out / "unet.pt", unet=unet, ema=ema, **moving)
    train(settings, checkpoint, prepare, seed=seed, bfloat16=bfloat16_pays(), after=average, saved=saved)
