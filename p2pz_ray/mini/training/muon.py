"""The optimizers: Muon for a network's inner matrices, AdamW for everything else.

Muon (Jordan et al., 2024) takes steps whose singular values are all about one, so that no direction of a matrix is
left behind. Its steps are scaled to AdamW's usual ones (Liu et al., 2025), so both use one learning rate. In the same
number of steps it learns more than AdamW alone, and takes a seventh longer. torch's own Muon doesn't support
convolutions, of which these networks consist.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from p2pz_ray.mini.training.loop import bfloat16_pays, on_gpu

ENDS = {"conv_in", "conv_out", "quant_conv", "post_quant_conv", "embeddings"}
"""Input and output layers, which AdamW updates."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration: in five rounds it brings singular values close to one."""
ROUNDS = 5


def optimizers(named: Iterable[tuple[str, nn.Parameter]], decay: float) -> dict[str, Optimizer]:
    """The two optimizers for these named parameters, under their names in a checkpoint."""
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in named:
        (inner if parameter.ndim > 1 and not ENDS & set(name.split(".")) else rest).append(parameter)
    adam = AdamW(rest, betas=(0.9, 0.99), weight_decay=decay, fused=on_gpu())
    return {"optimizer": adam, "muon": Muon(inner, weight_decay=decay)}


class Muon(Optimizer):
    """Parameters are matrices (rows, columns) or convolutions (rows, …), flattened to matrices."""

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
                rate = group["lr"] * 0.2 * max(shape) ** 0.5  # the RMS of AdamW's steps is about 0.2
                for parameter, move in zip(parameters, orthogonal(torch.stack(moves)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(rate * move.reshape(parameter.shape))

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov momentum: the gradient, moved towards its running mean."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["mean"], momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) → the same with all singular values between about 0.7 and 1.2, by Newton-Schulz iteration."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if bfloat16_pays():  # precise enough for "about one"
        x = x.bfloat16()
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
