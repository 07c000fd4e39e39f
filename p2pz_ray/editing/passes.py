"""The model's passes, in chunks of rows: K edits of an image take K times as long as one, but no more memory."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.text import Condition

T = TypeVar("T")
SCALE = 1024.0
"""What the loss is multiplied by in float16 on its way down, whose smallest numbers the gradient would be lost in. On
an H100, at Stable Diffusion 1.5's layout with random weights, the gradient is 0.3 % off float32's with it, 1.1 %
without (jobs/accelerator.md)."""


class Passes:
    """Passes of one model over B references with K edited rows each, in the order of the references.

    `most` rows go through a gradient pass at once, and twice as many through a plain pass. It is the number of
    references, or less if requested or if memory ran out before. Whenever memory runs out it is halved permanently.
    """

    def __init__(self, model: DiffusionModel, references: int, edits: int = 1, most: int | None = None) -> None:
        self.model, self.references, self.edits = model, references, edits
        most = most or references
        self.most = min(most, model.room or most)

    def output(self, x: Tensor, t: int, c: Condition) -> Tensor:
        """The UNet's output for any number of rows, without a gradient."""
        return torch.cat(self._fitted(lambda: [self._output(x, t, c, rows) for rows in _slices(len(x), 2 * self.most)]))

    def predict(self, x: Tensor, t: int, c: Condition, level: float) -> Tensor:
        """ε for any number of rows, without a gradient."""
        return self.model.epsilon(self.output(x, t, c), x, level)

    def record(self, x: Tensor, t: int, c: Condition, level: float, whole: bool) -> Tensor | None:
        """Record the references' maps, all B together; ε of a `whole` pass."""
        eps: Tensor | None = None
        with torch.no_grad(), self.model.maps.record(whole):
            eps = self.model.predict(x, t, c, level, watched=True)
        return eps

    def gradient(
        self, x: Tensor, t: int, c: Condition, level: float, whole: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """∇ₓ of each row's squared distance between its maps and its reference's; of a `whole` pass also its ε.

        x: (B·K, 4, h, w). The recorded maps are given up at the end.
        """

        def all_chunks() -> list[tuple[Tensor, Tensor | None]]:
            return [
                attention_gradient(self.model, x[rows], t, c[rows], level, whole, references)
                for references, rows in self._chunks()
            ]

        found = self._fitted(all_chunks)
        self.model.maps.clear()
        eps = [each for _, each in found if each is not None]
        return torch.cat([each for each, _ in found]), torch.cat(eps) if eps else None

    def _output(self, x: Tensor, t: int, c: Condition, rows: slice) -> Tensor:
        with torch.no_grad():
            return self.model.output(x[rows], t, c[rows])

    def _chunks(self) -> Iterator[tuple[slice, slice]]:
        """Slices of references and of the rows compared with them: whole images, or some edits of one."""
        B, K = self.references, self.edits
        if self.most >= K:
            for images in _slices(B, self.most // K):
                yield images, slice(images.start * K, images.stop * K)
        else:
            for i in range(B):
                for edits in _slices(K, self.most):
                    yield slice(i, i + 1), slice(i * K + edits.start, i * K + edits.stop)

    def _fitted(self, work: Callable[[], T]) -> T:
        """The result of `work`, repeated with fewer rows at once while memory runs out. Raises if one row is too
        many."""
        while True:
            try:
                return work()
            except Exception as error:
                if self.most == 1 or not out_of_memory(error):
                    raise
            # Out here the exception is gone, and with it what its traceback held of the device's memory.
            self.most = self.model.room = self.most // 2
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()


def attention_gradient(
    model: DiffusionModel,
    x: Tensor,
    t: int,
    c: Condition,
    level: float,
    whole: bool = False,
    references: slice = slice(None),
) -> tuple[Tensor, Tensor | None]:
    """∇ₓ of each row's squared distance between its cross-attention maps and the recorded ones of `references`, and of
    a `whole` pass also its ε."""
    eps: Tensor | None = None
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        # Recomputing a checkpointed block must run to the same point, so such a pass goes to its end.
        with model.maps.compare(whole or model.checkpointed, references):
            eps = model.predict(leaf, t, c, level, watched=True).detach()
        assert model.maps.loss is not None
        # Rows don't mix anywhere in the UNet, so the sum's gradient is every row's own.
        loss = model.maps.loss.sum()
        with model.maps.again():
            if model.unet.dtype == torch.float16:
                (found,) = torch.autograd.grad(SCALE * loss, leaf, retain_graph=True)
                found = found / SCALE
                lost = ~torch.isfinite(found).flatten(1).all(1)
                if lost.any():  # rows that overflowed are computed without scaling
                    (unscaled,) = torch.autograd.grad(loss, leaf)
                    found = torch.where(lost[:, None, None, None], unscaled, found)
            else:
                (found,) = torch.autograd.grad(loss, leaf)
    model.maps.loss = None
    return found, eps if whole else None


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or a CPU, whose allocators have no own kind of error."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
