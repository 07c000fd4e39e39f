"""The timesteps that inversion and denoising share, and the DDIM step between two of them."""

from dataclasses import dataclass

from diffusers import DDIMScheduler
from torch import Tensor

from p2pz_ray.errors import ConfigError

DARKEST = 2.0**-24
"""Replaces ā = 0 in schedules with zero terminal SNR, where ε has no information about the picture and a step would
divide by zero. With v-prediction, float32 still recovers the picture from it, to about 1e-3."""


@dataclass(frozen=True)
class Schedule:
    """N timesteps in ascending order and the N + 1 noise levels ā around them.

    `levels[0]` is the clean end; `levels[i]` belongs to `timesteps[i - 1]`.
    """

    timesteps: tuple[int, ...]
    levels: tuple[float, ...]

    @classmethod
    def of(cls, scheduler: DDIMScheduler, steps: int) -> "Schedule":
        """`steps` timesteps in the checkpoint's own spacing. Raises ConfigError for a number with which that spacing
        does not reach noise."""
        most = int(scheduler.config.num_train_timesteps)
        if not 1 <= steps <= most:
            raise ConfigError(f"inversion.steps is {steps}: choose 1 to {most}, what the checkpoint was trained with")
        timesteps = _timesteps(scheduler, steps)
        if not _leads_to_noise(timesteps, most):
            others = [*range(steps - 1, 0, -1), *range(steps + 1, most + 1)]
            better = next(n for n in others if _leads_to_noise(_timesteps(scheduler, n), most))
            raise ConfigError(
                f"inversion.steps is {steps}: the checkpoint's {scheduler.config.timestep_spacing!r} spacing would end "
                f"at t = {timesteps[-1]} of {most}, so choose {better}"
            )
        levels = [
            float(scheduler.final_alpha_cumprod),
            *(float(scheduler.alphas_cumprod[t]) for t in timesteps),
        ]
        return cls(tuple(timesteps), tuple(max(level, DARKEST) for level in levels))

    def __len__(self) -> int:
        return len(self.timesteps)


def _timesteps(scheduler: DDIMScheduler, steps: int) -> list[int]:
    scheduler.set_timesteps(steps)
    return [int(t) for t in scheduler.timesteps.flip(0)]


def _leads_to_noise(timesteps: list[int], most: int) -> bool:
    """Whether ascending timesteps end in the noisiest tenth of what their number allows, and beyond half of all."""
    return max(most / 2, 0.9 * (most - most / len(timesteps))) <= timesteps[-1] < most


def ddim_step(x: Tensor, eps: Tensor, here: float, there: float) -> Tensor:
    """Move x from noise level ā=`here` to ā=`there`, up or down (Song et al. 2021, eq. 12, η = 0)."""
    x0 = (x - (1 - here) ** 0.5 * eps) / here**0.5
    return there**0.5 * x0 + (1 - there) ** 0.5 * eps


def extrapolated(eps: Tensor, before: Tensor, past: float, here: float, there: float) -> Tensor:
    """The mean ε of the step from ā=`here` to `there`, from that at `here` and the one `before` it, at `past`.

    In σ = √(1/ā - 1) a DDIM step is Euler's; with this ε it is the two-step Adams-Bashforth one, of second order.
    """
    a, b, c = ((1 / level - 1) ** 0.5 for level in (past, here, there))
    return eps + (c - b) / (2 * (b - a)) * (eps - before)
