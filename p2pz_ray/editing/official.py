"""Denoising as the authors' published code and diffusers' pipeline compute it, for many images and directions at once.

It differs from the paper's formula in three ways. The reference is denoised again from x_T with classifier-free
guidance. The loss is averaged over both halves of the guidance batch, each compared with its own reference. And the
*negative* half's latent, moved by its own gradient, is the one that goes on to the next step.
"""

import torch
from torch import Tensor

from p2pz_ray.editing.inversion import Inversion, Watch
from p2pz_ray.editing.mask import free
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.passes import Passes
from p2pz_ray.editing.schedule import ddim_step
from p2pz_ray.editing.settings import GuidanceSettings
from p2pz_ray.editing.text import Condition
from p2pz_ray.errors import ConfigError


def edit(
    model: DiffusionModel,
    inversion: Inversion,
    directions: Condition,
    settings: GuidanceSettings,
    cells: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """B inverted images under K directions → edited latents (B, K, 4, h, w).

    At each step, for every edit alone, on a negative half n and an edited half e that both begin at x:
        x_n, x_e ← x - λ_xa/2 ∇ₓ Σ_layers ‖M_half - M_half,ref‖²
        ε = ε(x_n, c_neg) + cfg (ε(x_e, c + Δc) - ε(x_n, c_neg)),  x ← DDIM(x_n, ε)
    `cells` (B, K, h, w), where given, say for what share of the noise levels each may change; until then it stays on
    the inversion's trajectory.
    """
    lambda_xa, cfg, _ = settings.resolve(model)
    if cfg <= 1:
        raise ConfigError(f"guidance.cfg is {cfg:g}: form official edits nothing unless it is above 1")
    model.maps.choose(None)
    schedule = inversion.schedule
    B, K = len(inversion.c), len(directions)
    # The two halves' references are 2 B, with K rows each.
    passes = Passes(model, 2 * B, K, most=B)
    c_neg = model.negative(settings.negative, inversion.captions)
    c_ref = Condition.cat([c_neg, inversion.c])
    c_edit = inversion.c.each(lambda c: c.repeat_interleave(K, dim=0)) + directions.each(
        lambda delta: delta.repeat(B, *[1] * (delta.ndim - 1))
    )
    c_both = Condition.cat([c_neg.each(lambda c: c.repeat_interleave(K, dim=0)), c_edit])
    x_ref = inversion.trajectory[-1]
    x = x_ref.repeat_interleave(K, dim=0)
    shares = None if cells is None else cells.flatten(0, 1)[:, None]

    for step, i in enumerate(reversed(range(len(schedule)))):
        t, here, there = schedule.timesteps[i], schedule.levels[i + 1], schedule.levels[i]
        eps_ref = passes.record(torch.cat([x_ref, x_ref]), t, c_ref, here, whole=True)
        assert eps_ref is not None
        neg, pos = eps_ref.chunk(2)
        x_ref = ddim_step(x_ref, neg + cfg * (pos - neg), here, there)
        both = torch.cat([x, x])
        gradient, _ = passes.gradient(both, t, c_both, here)
        both = both - lambda_xa / 2 * gradient
        neg, pos = passes.output(both, t, c_both).chunk(2)
        x = both[: B * K]
        # A v-prediction's ε is taken at the latent that is carried on, as the schedulers do.
        eps = model.epsilon(neg + cfg * (pos - neg), x, here)
        x = ddim_step(x, eps, here, there)
        if shares is not None:
            held = inversion.trajectory[i].repeat_interleave(K, dim=0)
            x = torch.where(free(shares, step, len(schedule)), x, held)
        if watch is not None:
            watch(ddim_step(x, eps, there, 1.0).unflatten(0, (B, K)))
    return x.unflatten(0, (B, K))
