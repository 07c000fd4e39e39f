"""A lighter student: residual blocks of depthwise and pointwise convolutions at a quarter of the size, as in
MobileNetV2 (arXiv 1801.04381), with the source picture added to the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from p2pz_ray.student.generator import NetworkDraws
from p2pz_ray.student.layers import GAIN, Conv, Filter, bend, width

if TYPE_CHECKING:
    from p2pz_ray.config.generator import GeneratorConfig

EXPANSION = 4


class Depthwise(nn.Module):
    """A 5×5 convolution of each channel by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 1, 5, 5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * (GAIN / 5), self.bias * GAIN
        return bend(nn.functional.conv2d(x, weight, bias, padding=2, groups=x.shape[1]))


class MobileBlock(nn.Module):
    """Widen, convolve each channel, narrow; the result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.widen, self.look = Conv(channels, hidden, 1), Depthwise(hidden)
        self.narrow = Conv(hidden, channels, 1, active=False)
        self.share = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.share * self.narrow(self.look(self.widen(x)))
        return y


class MobileGenerator(nn.Module):
    """(B, 3, H, W) in -1 … 1 → the same; H and W are multiples of 4. Untrained it is the identity."""

    def __init__(self, config: GeneratorConfig, size: int) -> None:
        super().__init__()
        self.config, self.size, self.mapping, self.directions = config, size, None, 0
        full, half, quarter = (width(side, config.base, config.max) for side in (size, size // 2, size // 4))
        self.rgb = Conv(3, full, 3)
        self.halve, self.quarter = Conv(full, half, 3, down=True), Conv(half, quarter, 3, down=True)
        self.blocks = nn.Sequential(*(MobileBlock(quarter) for _ in range(config.blocks)))
        self.narrow, self.out = Conv(quarter, half, 3), Conv(half, full, 3)
        self.to_rgb = Conv(full, 3, 3, active=False)
        nn.init.zeros_(self.to_rgb.weight)
        self.filter = Filter()

    @property
    def noise_sides(self) -> list[int]:
        return []

    def forward(self, x: Tensor, direction: None = None, draws: NetworkDraws | None = None) -> Tensor:
        """`direction` and `draws` are ignored: they belong to the other architecture."""
        full = self.rgb(x)
        half = self.halve(full)
        h = self.blocks(self.quarter(half))
        h = self.filter.up(self.narrow(h)) + half
        h = self.filter.up(self.out(h)) + full
        y: Tensor = x + self.to_rgb(h)
        return y
