"""DDIM inversion with regularized noise (pix2pix-zero, section 3.2).

Every image has its own generator and its own loss, so results don't depend on the other images in the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.passes import Passes
from p2pz_ray.editing.schedule import Schedule, ddim_step, extrapolated
from p2pz_ray.editing.settings import InversionSettings
from p2pz_ray.editing.text import Condition

Watch = Callable[[Tensor | None], None]
"""Called after each step: in the inversion with None, in denoising with the clean latents (B, K, 4, h, w) that the step
predicts. Its exceptions end the process."""


@dataclass(frozen=True)
class Inversion:
    """B images on their way to noise: `trajectory` is (N + 1, B, 4, h, w), from the clean latents at 0 to x_T at
    N, and `c` are the captions it was made with, embedded. `images` (B, H, W, 3) are the pictures themselves. `faults`
    has for each image what is wrong with its latents, or None. `hints` are the controls' encodings for the edit,
    `c.hints` those for the inversion."""

    trajectory: Tensor
    c: Condition
    captions: tuple[str, ...]
    schedule: Schedule
    images: NDArray[np.uint8] | None = None
    faults: tuple[str | None, ...] = ()
    hints: tuple[tuple[Tensor, ...], ...] = ()


def invert(
    model: DiffusionModel,
    x: Tensor,
    captions: list[str],
    seeds: list[int],
    settings: InversionSettings,
    watch: Watch | None = None,
    hints: tuple[tuple[Tensor, ...], ...] = (),
) -> Inversion:
    """Walk clean latents x (B, 4, h, w) up to noise under their captions and `hints`, at guidance scale 1."""
    settings = settings.resolve(model)
    assert settings.steps is not None
    passes = Passes(model, len(x))
    schedule = Schedule.of(model.scheduler, settings.steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    c = model.embed(captions).shown(hints)
    trajectory = [x]
    before: Tensor | None = None
    for i, t in enumerate(schedule.timesteps):
        here, there = schedule.levels[i], schedule.levels[i + 1]
        # The prediction is asked for the timestep being entered: the return trip will ask for the same one.
        output = passes.output(x, t, c)
        if settings.regularization == "official":
            output = regularized_output(model, output, x, there, generators, settings)
            eps = model.epsilon(output, x, here)
        else:
            eps = regularize(model.epsilon(output, x, here), generators, settings)
        step = eps
        # In most schedules the first step is a hundredth of the second: too short to extrapolate from.
        if settings.order == 2 and before is not None and i > 1:
            step = extrapolated(eps, before, schedule.levels[i - 1], here, there)
        x, before = ddim_step(x, step, here, there), eps
        trajectory.append(x)
        if watch is not None:
            watch(None)
    return Inversion(torch.stack(trajectory), c, tuple(captions), schedule)


def regularize(eps: Tensor, generators: list[torch.Generator], settings: InversionSettings) -> Tensor:
    """Move ε (B, 4, h, w) towards white Gaussian noise by gradient steps on L_pair and L_KL.

    The gradient is with respect to ε alone and never passes through the UNet.
    """
    if settings.regularization == "none":
        return eps
    for _ in range(settings.reg_steps):
        if settings.regularization == "full":
            eps = eps - settings.lambda_ac * gradient(pair_loss_full, eps)
        else:
            drawn = draw_shifts_official if settings.regularization == "official" else draw_shifts
            for _ in range(settings.rolls):
                shifts = drawn(eps.shape, generators)
                step = gradient(partial(pair_loss, shifts=shifts), eps)
                eps = eps - settings.lambda_ac * step / settings.rolls
        eps = eps - settings.lambda_kl * gradient(kl_loss, eps)
    return eps


def regularized_output(
    model: DiffusionModel,
    output: Tensor,
    x: Tensor,
    level: float,
    generators: list[torch.Generator],
    settings: InversionSettings,
) -> Tensor:
    """The UNet's output, ε or v, regularized as the authors' code and diffusers' pipeline do it: by steps on the output
    itself, whose ε is taken at ā=`level` of the timestep being entered."""
    if model.prediction == "epsilon":
        return regularize(output, generators, settings)
    # ε = √ā v + √(1-ā) x: a step of λ on v moves ε by ā times as much.
    weaker = replace(settings, lambda_ac=settings.lambda_ac * level, lambda_kl=settings.lambda_kl * level)
    eps = regularize(model.epsilon(output, x, level), generators, weaker)
    return (eps - (1 - level) ** 0.5 * x) / level**0.5


def gradient(loss: Callable[[Tensor], Tensor], eps: Tensor) -> Tensor:
    """∂/∂ε of a per-image loss (B,); images don't mix, so the batch's sum has each image's own gradient."""
    with torch.enable_grad():
        leaf = eps.detach().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return found


def pyramid(eps: Tensor) -> list[Tensor]:
    """ε at full size and halved by 2×2 means until a side is 8 cells or fewer."""
    levels = [eps]
    while min(levels[-1].shape[-2:]) > 8:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def draw_shifts(shape: torch.Size, generators: list[torch.Generator]) -> list[Tensor]:
    """For each pyramid level, one shift an image and channel, (B, C), from 1 to half the side (exclusive)."""
    channels, sides = shape[1], _sides(shape)
    drawn = [[torch.randint(1, max(2, s // 2), (channels,), generator=g) for s in sides] for g in generators]
    return [torch.stack(level) for level in zip(*drawn, strict=True)]


def draw_shifts_official(shape: torch.Size, generators: list[torch.Generator]) -> list[Tensor]:
    """The same from 0 to half the height (exclusive), drawn channel by channel as the authors' code draws them."""
    channels, heights = shape[1], [shape[2] >> i for i in range(len(_sides(shape)))]
    drawn = [[[torch.randint(h // 2, (1,), generator=g) for h in heights] for _ in range(channels)] for g in generators]
    return [torch.stack([torch.cat([channel[i] for channel in image]) for image in drawn]) for i in range(len(heights))]


def _sides(shape: torch.Size) -> list[int]:
    """The shorter side of each level of the pyramid."""
    sides = [min(shape[-2:])]
    while sides[-1] > 8:
        sides.append(sides[-1] // 2)
    return sides


def roll_each(n: Tensor, shifts: Tensor, dim: int) -> Tensor:
    """`torch.roll` of (B, C, h, w) along `dim` with a shift of its own for every image and channel (B, C)."""
    size = n.shape[dim]
    index = (torch.arange(size, device=n.device) - shifts.to(n.device)[..., None]) % size
    index = index[..., :, None] if dim == 2 else index[..., None, :]
    return n.gather(dim, index.expand_as(n))


def pair_loss(eps: Tensor, shifts: list[Tensor]) -> Tensor:
    """L_pair (B,) at given shifts: Σ over levels and channels of mean(n·roll_y n)² + mean(n·roll_x n)²."""
    total = eps.new_zeros(len(eps))
    for n, shift in zip(pyramid(eps), shifts, strict=True):
        for dim in (2, 3):
            total = total + (n * roll_each(n, shift, dim)).mean((2, 3)).square().sum(1)
    return total


def pair_loss_full(eps: Tensor) -> Tensor:
    """L_pair (B,) over all shifts 1 … side-1, each level's sum divided by their number.

    So it is what sampled shifts give on average, and λ_ac means the same for both.

    The autocorrelation along an axis is the inverse Fourier transform of the power spectrum along it
    (Wiener-Khinchin); its mean over the other axis is the mean over all cells that the shifted sum asks for.
    """
    total = eps.new_zeros(len(eps))
    for n in pyramid(eps):
        for dim in (2, 3):
            power = torch.fft.rfft(n, dim=dim).abs().square().mean(5 - dim)
            correlation = torch.fft.irfft(power, n=n.shape[dim], dim=-1) / n.shape[dim]
            total = total + correlation[..., 1:].square().mean(2).sum(1)
    return total


def kl_loss(eps: Tensor) -> Tensor:
    """L_KL (B,) = σ² + μ² - 1 - log(σ² + 1e-7), over all channels and cells of an image."""
    flat = eps.flatten(1)
    mean, variance = flat.mean(1), flat.var(1)
    return variance + mean.square() - 1 - torch.log(variance + 1e-7)
