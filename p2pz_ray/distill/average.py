"""The exponential moving average of a generator's weights: the average becomes the student."""

import torch
from torch import nn


def decay(seen: int, batch: int, half_life: float) -> float:
    """β of one step after `seen` pictures. The half-life is `half_life` pictures, but at most 5 % of those seen."""
    reach = min(half_life, max(seen * 0.05, 1e-8))
    return float(0.5 ** (batch / reach))


@torch.no_grad()
def average(into: nn.Module, of: nn.Module, beta: float) -> None:
    """into ← β·into + (1-β)·of; buffers are copied."""
    for mine, theirs in zip(into.parameters(), of.parameters(), strict=True):
        mine.lerp_(theirs, 1 - beta)
    for kept, fresh in zip(into.buffers(), of.buffers(), strict=True):
        kept.copy_(fresh)
