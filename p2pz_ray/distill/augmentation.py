"""Augmentation: the same random draw for a source, its target and the student's answer.

Each operation can be differentiated twice, so the discriminator can see augmented pictures only (DiffAugment, Zhao et
al., arXiv 2006.10738). Draws are made for a whole batch, on the CPU, from the caller's generator. Of the noise only the
seeds are drawn, one per row, so that a worker draws only its own rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from p2pz_ray.config.distill import AugmentationConfig


@dataclass(frozen=True)
class Draw:
    """One batch's draw.

    flip: (B,) bool. shift: (B, 2) whole pixels down and right. colour: (B, 3) brightness, saturation and contrast.
    cutout: (B, 2) the middle of the hole, in 0 … 1. noise: (B,) seeds.
    """

    flip: Tensor
    shift: Tensor
    colour: Tensor
    cutout: Tensor
    noise: Tensor

    def part(self, rows: slice, device: torch.device | str) -> "Draw":
        """Some rows of the batch's, on a device."""
        return Draw(*(getattr(self, field.name)[rows].to(device) for field in fields(self)))


def noises(seeds: Tensor, shapes: Sequence[Sequence[int]], device: torch.device | str) -> list[Tensor]:
    """Normal noise (B, *shape) for each shape; each row is drawn on the device by its own seed."""
    rows = []
    for seed in seeds.tolist():
        generator = torch.Generator(device).manual_seed(seed)
        rows.append([torch.randn(*shape, generator=generator, device=device) for shape in shapes])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


class Augmentation:
    """Flips, shifts, colours, cutout and noise, of the strengths in `config`."""

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    def draw(self, batch: int, size: int, generator: torch.Generator) -> Draw:
        c = self.config
        uniform = torch.rand(batch, 8, generator=generator)
        return Draw(
            flip=uniform[:, 0] < c.flip,
            shift=((uniform[:, 1:3] * 2 - 1) * c.shift * size).round().long(),
            colour=(uniform[:, 3:6] * 2 - 1) * c.colour,
            cutout=uniform[:, 6:8],
            noise=torch.randint(2**62, (batch,), generator=generator),
        )

    def apply(self, x: Tensor, draw: Draw, noise: bool = True) -> Tensor:
        """Augment pictures (B, 3, H, W) in -1 … 1 by a draw of B rows. noise: False for the targets."""
        c = self.config
        if c.colour:
            brightness, saturation, contrast = draw.colour.to(x.dtype)[:, :, None, None, None].unbind(1)
            x = x + brightness
            grey = x.mean(1, keepdim=True)
            x = grey + (x - grey) * (1 + saturation)
            middle = x.mean((1, 2, 3), keepdim=True)
            x = middle + (x - middle) * (1 + contrast)
        if c.flip:
            x = torch.where(draw.flip[:, None, None, None], x.flip(3), x)
        if c.shift:  # the edge pixels are repeated
            height, width = x.shape[2:]
            rows = (torch.arange(height, device=x.device) - draw.shift[:, :1]).clamp(0, height - 1)
            columns = (torch.arange(width, device=x.device) - draw.shift[:, 1:]).clamp(0, width - 1)
            picture = torch.arange(len(x), device=x.device)[:, None, None]
            x = x.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if c.cutout:
            x = x * self._outside(x, draw.cutout)
        if c.noise and noise:
            [drawn] = noises(draw.noise, [x.shape[1:]], x.device)
            x = x + (c.noise * drawn).to(x.dtype)
        return x

    def _outside(self, x: Tensor, middle: Tensor) -> Tensor:
        """(B, 1, H, W): 0 in a square whose side is the share `cutout` of the picture's, 1 around it."""
        height, width = x.shape[2:]
        near = []
        for axis, length in enumerate((height, width)):
            place = (torch.arange(length, device=x.device) + 0.5) / length
            near.append((place - middle[:, axis : axis + 1]).abs() < self.config.cutout / 2)
        return (~(near[0][:, None, :, None] & near[1][:, None, None, :])).to(x.dtype)
