"""The timesteps that inversion and denoising share, and the DDIM step between two of them."""

from dataclasses import dataclass

from diffusers import DDIMScheduler
from torch import Tensor

from p2pz_ray.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """N timesteps in ascending order and the N + 1 noise levels ā around them.

    `levels[0]` is the clean end; `levels[i]` belongs to `timesteps[i - 1]`.
    """

    timesteps: tuple[int, ...]
    levels: tuple[float, ...]

    @classmethod
    def of(cls, scheduler: DDIMScheduler, steps: int) -> "Schedule":
        """The checkpoint's own spacing of `steps` timesteps."""
        most = int(scheduler.config.num_train_timesteps)
        if not 1 <= steps <= most:
            raise ConfigError(f"inversion.steps is {steps}: choose 1 to {most}, what the checkpoint was trained with")
        scheduler.set_timesteps(steps)
        timesteps = [int(t) for t in scheduler.timesteps.flip(0)]
        levels = [
            float(scheduler.final_alpha_cumprod),
            *(float(scheduler.alphas_cumprod[t]) for t in timesteps),
        ]
        return cls(tuple(timesteps), tuple(levels))

    def __len__(self) -> int:
        return len(self.timesteps)


def ddim_step(x: Tensor, eps: Tensor, here: float, there: float) -> Tensor:
    """Move x from noise level ā=`here` to ā=`there`, up or down (Song et al. 2021, eq. 12, η = 0)."""
    x0 = (x - (1 - here) ** 0.5 * eps) / here**0.5
    return there**0.5 * x0 + (1 - there) ** 0.5 * eps
