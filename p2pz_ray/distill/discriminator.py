"""StyleGAN2's residual discriminator, of a picture and the source picture that it was made from."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from p2pz_ray.config.distill import DiscriminatorConfig
from p2pz_ray.student.layers import Conv, Linear, leaky, width


class Block(nn.Module):
    """Two convolutions and a 1×1 past them; halves the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = Conv(inputs, inputs, 3), Conv(inputs, outputs, 3, down=True)
        self.past = Conv(inputs, outputs, 1, down=True, bias=False, active=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.second(self.first(x)) + self.past(x)) / math.sqrt(2)
        return y


class Discriminator(nn.Module):
    """Pictures and their conditions, both (B, 3, size, size) in -1 … 1 → logits (B,), high for real.

    The minibatch standard deviation is taken over groups of `group` neighbours in the batch; B is a multiple of it. So
    splitting a batch between workers by whole groups changes no logit.

    directions: the width D of an edit's direction; 0 is without. The directions (B, D) then condition the logits by
    projection (Miyato and Koyama, arXiv 1802.05637).
    """

    def __init__(self, config: DiscriminatorConfig, size: int, group: int, directions: int = 0) -> None:
        super().__init__()
        self.group = group
        sides = [size >> i for i in range((size // 4).bit_length())]
        widths = [width(side, config.base, config.max) for side in sides]
        self.rgb = Conv(6, widths[0], 1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        self.last = Conv(widths[-1] + 1, widths[-1], 3)
        self.dense, self.logit = Linear(widths[-1] * 16, widths[-1]), Linear(widths[-1], 1)
        self.edit = Linear(directions, widths[-1]) if directions else None

    def forward(self, picture: Tensor, condition: Tensor, direction: Tensor | None = None) -> Tensor:
        x = self.blocks(self.rgb(torch.cat([picture, condition], 1)))
        grouped = x.unflatten(0, (-1, self.group))
        spread = (grouped.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        spread = spread.repeat_interleave(self.group).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        x = self.last(torch.cat([x, spread], 1))
        features = leaky(self.dense(x.flatten(1)))
        y: Tensor = self.logit(features).squeeze(1)
        if self.edit is not None:
            assert direction is not None
            projection = self.edit(direction * math.sqrt(direction.shape[1]))
            y = y + (features * projection).sum(1) / math.sqrt(projection.shape[1])
        return y
