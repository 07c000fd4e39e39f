"""CoMod-GAN's generator (Zhao et al., ICLR 2021, arXiv 2103.10428): an encoder whose code modulates every layer of a
StyleGAN2 decoder, which also takes the encoder's feature maps.

The paper's style comes from a random z. Here an edit's direction times its strength can replace z or accompany it:
then one generator makes many edits, at any strength, and several at once. A teacher gives one answer per picture, so z
and noise are off by default and never used after training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from p2pz_ray.student.layers import GAIN, Conv, Filter, Linear, ModulatedConv, bend, leaky, width

if TYPE_CHECKING:
    from p2pz_ray.config.generator import GeneratorConfig

FADE_BELOW = 0.25
"""With directions shorter than this the output fades into the source; with longer ones it is the network's alone."""


@dataclass(frozen=True)
class NetworkDraws:
    """The random draws of one training batch; None where the network has no such draw.

    z: (B, Z) normal. dropout: (B, code), 0 or 1/(1-p). noise: one (B, 1, s, s) normal for each modulated layer.
    """

    z: Tensor | None = None
    dropout: Tensor | None = None
    noise: Sequence[Tensor] | None = None


class Encoder(nn.Module):
    """(B, 3, size, size) → the global code (B, code) and the feature maps at 4, 8, … size."""

    def __init__(self, config: GeneratorConfig, size: int) -> None:
        super().__init__()
        sides = _sides(size)
        widths = {side: width(side, config.base, config.max) for side in sides}
        self.rgb = Conv(3, widths[size], 1)
        self.keep = nn.ModuleList(Conv(widths[side], widths[side], 3) for side in reversed(sides))
        self.halve = nn.ModuleList(Conv(widths[side], widths[side // 2], 3, down=True) for side in reversed(sides[1:]))
        self.code = Linear(widths[4] * 16, config.code)

    def forward(self, x: Tensor, dropout: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        x, features = self.rgb(x), []
        for i, keep in enumerate(self.keep):
            x = keep(x)
            features.append(x)
            if i < len(self.halve):
                x = self.halve[i](x)
        code = leaky(self.code(x.flatten(1)))
        return code if dropout is None else code * dropout, features[::-1]


class Mapping(nn.Module):
    """z (B, Z) → w (B, Z): dense layers on the normalized z. `mean` is the average w, used after training."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(size, size, lr_multiplier=0.01) for _ in range(layers))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(size))

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = leaky(layer(w))
        return w

    @torch.no_grad()
    def track(self, z: Tensor, beta: float = 0.995) -> None:
        """Move the average towards that of these z."""
        self.mean.lerp_(self(z).mean(0), 1 - beta)


class DirectionMapping(nn.Module):
    """A direction times its strength (B, D) → its style (B, width). Its length counts, so nothing is normalized."""

    def __init__(self, directions: int, width: int, layers: int) -> None:
        super().__init__()
        sizes = [directions] + [width] * layers
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, direction: Tensor) -> Tensor:
        # A direction has length 1 at strength 1, but a layer expects values of variance 1.
        w = direction * math.sqrt(direction.shape[1])
        for layer in self.layers:
            w = leaky(layer(w))
        return w


class ModulatedLayer(nn.Module):
    """Modulated convolution, noise of a learned strength, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style: int, *, up: bool, noise: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style, up=up, after=GAIN)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(())) if noise else None

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        y = self.conv(x, style)
        if self.strength is not None and noise is not None:
            y = y + noise.to(y.dtype) * (self.strength * GAIN)
        return bend(y + (self.bias * GAIN)[:, None, None])


class ToRGB(nn.Module):
    """A modulated 1×1 convolution, not demodulated."""

    def __init__(self, inputs: int, style: int, *, zero: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))
        if zero:
            nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.conv(x, style) + self.bias[:, None, None]


class CoModGenerator(nn.Module):
    """(B, 3, size, size) in -1 … 1 → the same; `size` is a power of two from 8 on.

    With `residual` the output is added to the source, and the untrained generator is the identity.

    directions: the width D of an edit's direction; every picture then needs a direction (B, D), and a direction of
    zeros gives the source itself. 0 is a generator of one edit at one strength.
    """

    def __init__(self, config: GeneratorConfig, size: int, directions: int = 0) -> None:
        super().__init__()
        self.config, self.size, self.directions = config, size, directions
        sides = _sides(size)
        widths = {side: width(side, config.base, config.max) for side in sides}
        style = config.code + config.z + (config.style if directions else 0)
        self.encoder = Encoder(config, size)
        self.mapping = Mapping(config.z, config.mapping_layers) if config.z else None
        self.direction = DirectionMapping(directions, config.style, config.style_layers) if directions else None
        self.dense = Linear(config.code, widths[4] * 16)
        self.first = ModulatedLayer(widths[4], widths[4], style, up=False, noise=config.noise)
        self.up = nn.ModuleList(
            ModulatedLayer(widths[side // 2], widths[side], style, up=True, noise=config.noise) for side in sides[1:]
        )
        self.after = nn.ModuleList(
            ModulatedLayer(widths[side], widths[side], style, up=False, noise=config.noise) for side in sides[1:]
        )
        self.rgb = nn.ModuleList(ToRGB(widths[side], style, zero=config.residual) for side in sides)
        self.filter = Filter()

    @property
    def noise_sides(self) -> list[int]:
        """The side of each layer's noise, in order; [] without noise."""
        sides = [4] + [side for side in _sides(self.size)[1:] for _ in range(2)]
        return sides if self.config.noise else []

    def forward(self, x: Tensor, direction: Tensor | None = None, draws: NetworkDraws | None = None) -> Tensor:
        draws = draws or NetworkDraws()
        code, features = self.encoder(x, draws.dropout)
        style = code
        if self.direction is not None:
            assert direction is not None
            style = torch.cat([self.direction(direction), style], 1)
        if self.mapping is not None:
            w = self.mapping.mean.expand(x.shape[0], -1) if draws.z is None else self.mapping(draws.z)
            style = torch.cat([w, style], 1)
        noise = iter(draws.noise or ())
        h = leaky(self.dense(code)).unflatten(1, (-1, 4, 4)) + features[0]
        h = self.first(h, style, next(noise, None))
        picture = self.rgb[0](h, style)
        for up, after, rgb, skip in zip(self.up, self.after, list(self.rgb)[1:], features[1:], strict=True):
            h = up(h, style, next(noise, None)) + skip
            h = after(h, style, next(noise, None))
            picture = self.filter.up(picture) + rgb(h, style)
        if self.config.residual:
            picture = x + picture
        if direction is None:
            return picture
        share = (direction.square().sum(1).sqrt() / FADE_BELOW).clamp(max=1)
        return x + share[:, None, None, None] * (picture - x)


def _sides(size: int) -> list[int]:
    return [4 << i for i in range((size // 4).bit_length())]
