"""The losses of generator and discriminator, one value per picture: (B,)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def generator_loss(logits: Tensor) -> Tensor:
    """Non-saturating: softplus(-D(fake))."""
    return F.softplus(-logits)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(fake)) + softplus(-D(real))."""
    return F.softplus(fake) + F.softplus(-real)


def r1_penalty(logits: Tensor, picture: Tensor) -> Tensor:
    """‖∇D(picture)‖², which can be differentiated again (Mescheder et al., arXiv 1801.04406).

    `picture` (B, 3, H, W) must require a gradient; `logits` (B,) must be computed from it.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), picture, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def l1(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().mean((1, 2, 3))
