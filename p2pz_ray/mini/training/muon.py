"""How a network's weights move: its inner matrices by Muon, everything else by AdamW.

Muon (Jordan et al., 2024) takes steps whose singular values are all about one, so that no direction of a matrix is left
behind; scaled to AdamW's usual step (Liu et al., 2025), one rate serves both. At equal steps it learns more than AdamW
alone for a seventh more time. torch's own Muon takes no convolutions, of which these networks are made.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from p2pz_ray.mini.training.loop import bfloat16_pays, on_gpu

ENDS = {"conv_in", "conv_out", "quant_conv", "post_quant_conv", "embeddings"}
"""Layers that read or write what is not hidden: AdamW moves them."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration: it draws singular values up to about one as fast as five rounds can."""
ROUNDS = 5


def optimizers(named: Iterable[tuple[str, nn.Parameter]], decay: float) -> dict[str, Optimizer]:
    """For named parameters, the two optimizers that move them, by the names they have in a checkpoint."""
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in named:
        (inner if parameter.ndim > 1 and not ENDS & set(name.split(".")) else rest).append(parameter)
    adam = AdamW(rest, betas=(0.9, 0.99), weight_decay=decay, fused=on_gpu())
    return {"optimizer": adam, "muon": Muon(inner, weight_decay=decay)}


class Muon(Optimizer):
    """Parameters are matrices (rows, columns) or convolutions (rows, …), taken as matrices of as many rows."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[len(parameter), parameter[0].numel()].append(parameter)
            for shape, parameters in alike.items():
                moves = [self._direction(p, group["momentum"]).reshape(shape) for p in parameters]
                rate = group["lr"] * 0.2 * max(shape) ** 0.5  # AdamW's entries are 0.2 in the mean square
                for parameter, move in zip(parameters, orthogonal(torch.stack(moves)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(rate * move.reshape(parameter.shape))

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's: the gradient, moved on towards its running mean."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["mean"], momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) → the same with all singular values between about 0.7 and 1.2, by Newton and Schulz's way."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if bfloat16_pays():  # "about one" needs no more digits
        x = x.bfloat16()
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
