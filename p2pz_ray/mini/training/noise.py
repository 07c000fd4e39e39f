"""Noise: the schedule, noised latents, and the loss of a noise prediction."""

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler

from p2pz_ray.mini.training.loop import Numbers


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule. With few steps, sampling starts at the last timestep
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
    """Latents (B, 4, h, w) with noise of random levels, their timesteps (B,), and the noise."""
    noise = torch.randn_like(x0)
    # One timestep from each of B equal strata: less variance than independent draws.
    strata = torch.randperm(len(x0), device=x0.device)
    t = ((strata + torch.rand_like(x0[:, 0, 0, 0])) / len(x0) * len(alphas)).long()
    a = alphas[t][:, None, None, None]
    return (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last), t, noise


def denoising_loss(
    said: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor, min_snr: float
) -> tuple[torch.Tensor, Numbers]:
    """The loss of a noise prediction, weighted by signal-to-noise ratio (min-SNR, Hang et al. 2023); and its error."""
    error = F.mse_loss(said.float(), noise, reduction="none").mean((1, 2, 3))
    snr = alphas / (1 - alphas)
    return (error * snr.clamp(max=min_snr) / snr).mean(), {"error": error.mean().detach()}
