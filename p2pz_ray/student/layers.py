"""The layers of generator and discriminator, after StyleGAN2 (arXiv 1912.04958), in plain exportable PyTorch.

Weights are kept at unit variance and scaled in use, so that Adam moves all layers alike. Feature maps are
(B, channels, H, W), styles (B, S).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TAPS = (1.0, 3.0, 3.0, 1.0)
GAIN = math.sqrt(2.0)
"""The gain that keeps the variance after a leaky ReLU. Layers fold it into their weights, where it costs nothing: a
leaky ReLU of g·x is g times that of x."""


def width(side: int, base: int, most: int) -> int:
    """The channels of the feature maps of `side` × `side` cells."""
    return max(1, min(base // side, most))


def bend(x: Tensor) -> Tensor:
    """Leaky ReLU."""
    return F.leaky_relu(x, 0.2)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return bend(x) * GAIN


class Linear(nn.Module):
    """A dense layer. `lr_multiplier` slows its training, `bias` is the bias's initial value."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.gain, self.lr_multiplier = lr_multiplier / math.sqrt(inputs), lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.lr_multiplier)


class Filter(nn.Module):
    """The fixed low-pass filter 1 3 3 1, as a depthwise convolution: `up` doubles, `down` halves, `same` with `pad`
    cells of zeros on every side shortens by 3 - 2·pad."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(_TAPS) / sum(_TAPS)
        self.kernel: Tensor
        self.register_buffer("kernel", (taps[:, None] * taps)[None, None], persistent=False)

    def same(self, x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
        return F.conv2d(x, self._for(x, gain), padding=pad, groups=x.shape[1])

    def down(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._for(x, 1.0), padding=1, stride=2, groups=x.shape[1])

    def up(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._for(x, 4.0), padding=1, stride=2, groups=x.shape[1])

    def _for(self, x: Tensor, gain: float) -> Tensor:
        return (self.kernel * gain).to(x.dtype).expand(x.shape[1], 1, 4, 4)


class Conv(nn.Module):
    """A convolution that keeps the size, or with `down` filters and halves it; then leaky ReLU if `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, down: bool = False, bias: bool = True, active: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        after = GAIN if active else 1.0
        self.gain, self.bias_gain = after / math.sqrt(inputs * kernel**2), after
        self.kernel, self.active = kernel, active
        self.filter = Filter() if down else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        bias = None if self.bias is None else self.bias * self.bias_gain
        if self.filter is None:
            x = F.conv2d(x, weight, bias, padding=self.kernel // 2)
        elif self.kernel == 1:
            x = F.conv2d(self.filter.down(x), weight, bias)
        else:
            x = F.conv2d(self.filter.same(x, pad=2), weight, bias, stride=2)
        return bend(x) if self.active else x


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, s = A·style + b with s = 1 at first.

    The textbook scales the weights, w' = s·w, and with `demodulate` divides by √(Σ w'² + 1e-8): one weight tensor per
    picture. Scaling the input by s and the output by d gives the same result with one weight tensor for all:

        y = conv(x·s)·d,   d = g/√((s²)·(Σ_k w²)ᵀ + 1e-8)

    where g is `after`, a gain on the output.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style: int,
        *,
        up: bool = False,
        demodulate: bool = True,
        after: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = Linear(style, inputs, bias=1.0)
        self.gain, self.after = 1 / math.sqrt(inputs * kernel**2), after
        self.kernel, self.demodulate = kernel, demodulate
        self.filter = Filter() if up else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        s, weight = self.affine(style), self.weight * self.gain
        x = x * s[:, :, None, None]
        if self.filter is None:
            y = F.conv2d(x, weight, padding=self.kernel // 2)
        else:
            y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            y = self.filter.same(y, pad=1, gain=4.0)
        if self.demodulate:
            y = y * self._demodulation(s, weight)[:, :, None, None].to(y.dtype)
        return y

    def _demodulation(self, s: Tensor, weight: Tensor) -> Tensor:
        """d, always in float32: squares exceed half precision's range and digits."""
        if torch.is_autocast_enabled(s.device.type):
            with torch.autocast(s.device.type, enabled=False):
                return self._demodulation(s, weight)
        squares = s.float().square() @ weight.float().square().sum((2, 3)).T
        return self.after * torch.rsqrt(squares + 1e-8)
