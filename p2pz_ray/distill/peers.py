"""The other workers of a training: which rows of a batch are this one's, and sums over all of them.

Plain modules, no wrapper: parameters are broadcast once, and after a backward pass the gradients are laid end to end,
added up over the workers and cut apart again. So a second derivative is no special case.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Peers:
    """Worker `rank` of `world`. Of one alone nothing is asked; of several, that torch.distributed is set up."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    def rows(self, batch: int, group: int) -> slice:
        """This worker's rows of a batch: whole groups, as even as they come out."""
        groups = batch // group
        first, last = (groups * n // self.world for n in (self.rank, self.rank + 1))
        return slice(first * group, last * group)

    def broadcast(self, module: nn.Module) -> None:
        """Let every worker have the first one's weights."""
        if self.world > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients over all workers; each has weighted its own by its share of the batch. A parameter
        without a gradient here counts as zero."""
        if self.world == 1:
            return
        own = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for p, part in zip(own, flat.split([p.numel() for p in own]), strict=True):
            p.grad = part.view_as(p)
