"""Denoising under a new text while the reference's cross-attention maps hold the structure
(pix2pix-zero, section 3.3).

The reference and its K edits walk down the timesteps together, so that a step's maps are needed at that step only and
serve all K edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from p2pz_ray.editing.attention import CrossAttentionMaps
from p2pz_ray.editing.inversion import Inversion, Watch
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.schedule import ddim_step, extrapolated
from p2pz_ray.editing.text import Condition


@dataclass(frozen=True)
class GuidanceSettings:
    """`lambda_xa`, `cfg` and `strength` None mean the checkpoint's own default (see `resolve`).

    `strength` multiplies every direction, beside what its edit multiplies it by.

    `negative` is the text that classifier-free guidance moves away from; "caption" stands for the image's own caption,
    right for real images. `reference` says where the reference's latents come from: "trajectory" are the inversion's
    own, "reconstruction" denoises them again from x_T as the paper does.

    The others trade evaluations for exactness: `guided` is the share of the steps, from the noisiest on, that compare
    maps, and `guided_every`-th of them do so anew, its gradient held between; `layers` names the blocks whose maps are
    compared (None: all); every `negative_every`-th step asks for ε_neg, and ε_edit - ε_neg is held between; `order` 2
    extrapolates ε from the step before; `reuse` takes ε_edit from the pass that compares maps, before they have moved
    x.
    """

    lambda_xa: float | None = None
    cfg: float | None = None
    strength: float | None = None
    negative: str = "caption"
    reference: Literal["trajectory", "reconstruction"] = "trajectory"
    guided: float = 1.0
    guided_every: int = 1
    layers: Sequence[str] | None = None
    negative_every: int = 1
    order: Literal[1, 2] = 1
    reuse: bool = False

    def resolve(self, model: DiffusionModel) -> tuple[float, float, float]:
        """(λ_xa, guidance scale, strength): as set, else from the checkpoint's `editing.json`, else the paper's 0.1,
        5 and 1.

        A v-prediction model's gradients are an order of magnitude larger: 0.1 makes noise of it, 0.01 does not.
        """
        usual = 0.1 if model.prediction == "epsilon" else 0.01
        lambda_xa = self.lambda_xa if self.lambda_xa is not None else model.defaults.get("lambda_xa", usual)
        cfg = self.cfg if self.cfg is not None else model.defaults.get("cfg", 5.0)
        strength = self.strength if self.strength is not None else model.defaults.get("strength", 1.0)
        return float(lambda_xa), float(cfg), float(strength)


def edit(
    model: DiffusionModel,
    maps: CrossAttentionMaps,
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
    `cells` (B, 1, h, w) bool, where given, are those that may change: the others stay on the inversion's trajectory.
    """
    lambda_xa, cfg, strength = settings.resolve(model)
    maps.choose(settings.layers)
    schedule = inversion.schedule
    B, K = len(inversion.c), len(directions)
    c_edit = inversion.c.each(lambda c: c.repeat_interleave(K, dim=0)) + directions.each(
        lambda delta: strength * delta.repeat(B, *[1] * (delta.ndim - 1))
    )
    negatives = list(inversion.captions) if settings.negative == "caption" else [settings.negative] * B
    c_neg = model.embed(negatives).each(lambda c: c.repeat_interleave(K, dim=0))
    x_ref = inversion.trajectory[-1]
    x = x_ref.repeat_interleave(K, dim=0)
    free = None if cells is None else cells.repeat_interleave(K, dim=0)
    gradient = torch.zeros_like(x)
    towards: Tensor | None = None
    before: Tensor | None = None
    compared = round(settings.guided * len(schedule)) if lambda_xa else 0

    for step, i in enumerate(reversed(range(len(schedule)))):
        t, here, there = schedule.timesteps[i], schedule.levels[i + 1], schedule.levels[i]
        if settings.reference == "trajectory":
            x_ref = inversion.trajectory[i + 1]
        eps_edit: Tensor | None = None
        if step < compared:
            again = settings.reference == "reconstruction"
            if step % settings.guided_every == 0:
                with torch.no_grad(), maps.record(whole=again):
                    eps_ref = model.predict(x_ref, t, inversion.c, here, watched=True)
                gradient, eps_edit = attention_gradient(model, maps, x, t, c_edit, here, settings.reuse)
            elif again:
                with torch.no_grad():
                    eps_ref = model.predict(x_ref, t, inversion.c, here)
            x = x - lambda_xa * gradient
            if again:
                x_ref = ddim_step(x_ref, eps_ref, here, there)
        if step % settings.negative_every == 0:
            towards = None
        with torch.no_grad():
            eps, towards = guided(model, x, t, c_neg, c_edit, cfg, here, towards, eps_edit)
        mean = eps
        if settings.order == 2 and before is not None:
            mean = extrapolated(eps, before, schedule.levels[i + 2], here, there)
        x, before = ddim_step(x, mean, here, there), eps
        if free is not None:
            x = torch.where(free, x, inversion.trajectory[i].repeat_interleave(K, dim=0))
        if watch is not None:
            watch(ddim_step(x, eps, there, 1.0).unflatten(0, (B, K)))
    return x.unflatten(0, (B, K))


def guided(
    model: DiffusionModel,
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


def attention_gradient(
    model: DiffusionModel,
    maps: CrossAttentionMaps,
    x: Tensor,
    t: int,
    c: Condition,
    level: float,
    whole: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """∇ₓ of each row's squared distance between its cross-attention maps and the recorded ones, and of a `whole` pass
    also its ε."""
    eps: Tensor | None = None
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        with maps.compare(whole):
            eps = model.predict(leaf, t, c, level, watched=True).detach()
        assert maps.loss is not None
        # Rows don't mix anywhere in the UNet, so the sum's gradient is every row's own.
        (found,) = torch.autograd.grad(maps.loss.sum(), leaf)
    maps.clear()
    return found, eps


def edit_official(
    model: DiffusionModel,
    maps: CrossAttentionMaps,
    inversion: Inversion,
    direction: Condition,
    settings: GuidanceSettings,
) -> Tensor:
    """One image under one direction, step by step as the authors' code and diffusers' pipeline compute it.

    It differs from `edit` where they differ from the paper: the reference is denoised with classifier-free guidance,
    the loss averages over both halves of the guidance batch, and the *negative* half's updated latent is the one
    carried on. It knows no strength. Returns (1, 1, 4, h, w).
    """
    lambda_xa, cfg, _ = settings.resolve(model)
    maps.choose(settings.layers)
    schedule = inversion.schedule
    negative = inversion.captions[0] if settings.negative == "caption" else settings.negative
    c_neg = model.embed([negative])
    c_ref = Condition.cat([c_neg, inversion.c])
    c_edit = Condition.cat([c_neg, inversion.c + direction])
    x_ref = x = inversion.trajectory[-1]

    for i in reversed(range(len(schedule))):
        t, here, there = schedule.timesteps[i], schedule.levels[i + 1], schedule.levels[i]
        with torch.no_grad(), maps.record():
            neg, pos = model.predict(torch.cat([x_ref, x_ref]), t, c_ref, here, watched=True).chunk(2)
        x_ref = ddim_step(x_ref, neg + cfg * (pos - neg), here, there)
        both = torch.cat([x, x])
        gradient, _ = attention_gradient(model, maps, both, t, c_edit, here)
        both = both - lambda_xa / 2 * gradient
        with torch.no_grad():
            neg, pos = model.output(both, t, c_edit).chunk(2)
        x = both[:1]
        # A v-prediction's ε is taken at the latent that is carried on, as the schedulers do.
        x = ddim_step(x, model.epsilon(neg + cfg * (pos - neg), x, here), here, there)
    return x[None]
