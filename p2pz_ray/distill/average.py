"""The exponential moving average of a generator's weights: the average becomes the student."""

import torch
from torch import nn


def decay(seen: int, batch: int, half_life: float) -> float:
    """β of one step after `seen` pictures. The half-life is `half_life` pictures, but at most 5 % of those seen."""
    reach = min(half_life, max(seen * 0.05, 1e-8))
    return float(0.5 ** (batch / reach))


@torch.no_grad()
def average(target: nn.Module, source: nn.Module, beta: float) -> None:
    """target ← β·target + (1-β)·source; buffers are copied."""
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        ours.lerp_(theirs, 1 - beta)
    for buffer, fresh in zip(target.buffers(), source.buffers(), strict=True):
        buffer.copy_(fresh)
