"""The workers of a training: which rows of a batch belong to which worker, and sums over all workers.

Modules stay plain, without a wrapper: parameters are broadcast once, and after a backward pass the gradients are
flattened into one vector, summed over the workers and split again. So second derivatives need no special case.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Peers:
    """Worker `rank` of `world`. With more than one worker, torch.distributed must be initialized."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    def rows(self, batch: int, group: int) -> slice:
        """This worker's rows of a batch: whole groups, split as evenly as possible."""
        groups = batch // group
        first, last = (groups * n // self.world for n in (self.rank, self.rank + 1))
        return slice(first * group, last * group)

    def broadcast(self, module: nn.Module) -> None:
        """Copy the first worker's weights to all workers."""
        if self.world > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all workers; each worker has weighted its own by its share of the batch. A missing
        gradient counts as zero."""
        if self.world == 1:
            return
        trained = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for p, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            p.grad = part.view_as(p)
