"""Denoising under a new text while the reference's cross-attention maps hold the structure, by the paper's formula
(pix2pix-zero, section 3.3).

The reference and its K edits walk down the timesteps together, so that a step's maps are needed at that step only and
serve all K edits.
"""

from typing import Protocol

import torch
from torch import Tensor

from p2pz_ray.editing.inversion import Inversion, Watch
from p2pz_ray.editing.mask import free
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.passes import Passes
from p2pz_ray.editing.schedule import ddim_step, extrapolated
from p2pz_ray.editing.settings import GuidanceSettings
from p2pz_ray.editing.text import Condition


def edit(
    model: DiffusionModel,
    inversion: Inversion,
    directions: Condition,
    settings: GuidanceSettings,
    cells: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """B inverted images under K directions → edited latents (B, K, 4, h, w).

    At each step, for every edit alone, with c_edit = c + strength Δc:
        x ← x - λ_xa ∇ₓ Σ_layers ‖M_edit - M_ref‖²
        ε = ε_neg + cfg (ε_edit - ε_neg),  x ← DDIM(x, ε)
    `cells` (B, K, h, w), where given, say for what share of the noise levels each may change; until then it stays on
    the inversion's trajectory.
    """
    lambda_xa, cfg, strength = settings.resolve(model)
    model.maps.choose(settings.layers)
    schedule = inversion.schedule
    B, K = len(inversion.c), len(directions)
    passes = Passes(model, B, K)
    c_plain = inversion.c.shown(inversion.hints).each(lambda c: c.repeat_interleave(K, dim=0))
    c_directed = c_plain + directions.each(lambda delta: strength * delta.repeat(B, *[1] * (delta.ndim - 1)))
    c_neg = model.negative(settings.negative, inversion.captions).shown(inversion.hints)
    c_neg = c_neg.each(lambda c: c.repeat_interleave(K, dim=0))
    x_ref = inversion.trajectory[-1]
    x = x_ref.repeat_interleave(K, dim=0)
    shares = None if cells is None else cells.flatten(0, 1)[:, None]
    gradient = torch.zeros_like(x)
    towards: Tensor | None = None
    before: Tensor | None = None
    directed, guiding, confined = (
        _steps(window, len(schedule)) for window in (settings.directed, settings.guided, settings.confined)
    )
    comparing = guiding if lambda_xa else range(0)

    for step, i in enumerate(reversed(range(len(schedule)))):
        t, here, there = schedule.timesteps[i], schedule.levels[i + 1], schedule.levels[i]
        if settings.reference == "trajectory":
            x_ref = inversion.trajectory[i + 1]
        c_edit = c_directed if step in directed else c_plain
        eps_edit: Tensor | None = None
        if step in comparing:
            again = settings.reference == "reconstruction"
            eps_ref: Tensor | None = None
            if (step - comparing.start) % settings.guided_every == 0:
                eps_ref = passes.record(x_ref, t, inversion.c, here, whole=again)
                gradient, eps_edit = passes.gradient(x, t, c_edit, here, settings.reuse)
            elif again:
                eps_ref = passes.predict(x_ref, t, inversion.c, here)
            x = x - lambda_xa * gradient
            if eps_ref is not None:
                x_ref = ddim_step(x_ref, eps_ref, here, there)
        if step % settings.negative_every == 0:
            towards = None
        with torch.no_grad():
            eps, towards = guided(passes, x, t, c_neg, c_edit, cfg, here, towards, eps_edit)
        mean = eps
        if settings.order == 2 and before is not None:
            mean = extrapolated(eps, before, schedule.levels[i + 2], here, there)
        x, before = ddim_step(x, mean, here, there), eps
        if shares is not None and step in confined:
            held = inversion.trajectory[i].repeat_interleave(K, dim=0)
            x = torch.where(free(shares, step, len(schedule)), x, held)
        if watch is not None:
            watch(ddim_step(x, eps, there, 1.0).unflatten(0, (B, K)))
    return x.unflatten(0, (B, K))


def _steps(window: tuple[float, float], steps: int) -> range:
    """The steps, counted from the noisiest, that lie in a window."""
    return range(round(window[0] * steps), round(window[1] * steps))


class Predicts(Protocol):
    """A model, or its passes."""

    def predict(self, x: Tensor, t: int, c: Condition, level: float) -> Tensor: ...


def guided(
    model: Predicts,
    x: Tensor,
    t: int,
    c_neg: Condition,
    c: Condition,
    cfg: float,
    level: float,
    towards: Tensor | None = None,
    eps: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Classifier-free guidance ε_neg + cfg (ε - ε_neg), and `towards`, ε - ε_neg.

    Either of ε and `towards` may be given; where neither is, one pass asks for both predictions.
    """
    if cfg == 1:
        return model.predict(x, t, c, level) if eps is None else eps, None
    if towards is None:
        if eps is None:
            eps_neg, eps = model.predict(torch.cat([x, x]), t, Condition.cat([c_neg, c]), level).chunk(2)
        else:
            eps_neg = model.predict(x, t, c_neg, level)
        towards = eps - eps_neg
    elif eps is None:
        eps = model.predict(x, t, c, level)
    return eps + (cfg - 1) * towards, towards
