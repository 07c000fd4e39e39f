"""A learned distance between pictures: LPIPS, whose backbone's weights must be on the machine, and shift-tolerant
LPIPS, whose weights arrive by package.

    distance = load_perceptual("stlpips-alex")
    d = distance(x, y)          # (B, 3, H, W) in -1 … 1 → (B,), 0 for equal pictures

ST-LPIPS (Ghildyal and Liu, ECCV 2022, arXiv 2207.13686) is LPIPS trained anew on backbones with blurred pooling. Its
numbers are not comparable with LPIPS's own.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p2pz_ray.errors import ConfigError

Perceptual = Literal["stlpips-alex", "stlpips-vgg", "lpips-alex", "lpips-vgg"]

SHA256 = {
    "alex": "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg": "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
}
"""Of the weights in stlpips-pytorch 0.0.2. Other files are refused, since the format is pickle."""

# Each slice of a backbone ends with the features that are compared. A convolution is (channels, kernel, padding).
_Layer = tuple[int, int, int] | str
_BACKBONES: dict[str, list[list[_Layer]]] = {
    "alex": [
        [(64, 11, 2), "blur", "relu"],
        ["pool3", "blur", (192, 5, 2), "relu"],
        ["pool3", "blur", (384, 3, 1), "relu"],
        [(256, 3, 1), "relu"],
        [(256, 3, 1), "relu"],
    ],
    "vgg": [
        [(64, 3, 1), "relu", (64, 3, 1), "relu"],
        ["pool2", "blur", (128, 3, 1), "relu", (128, 3, 1), "relu"],
        ["pool2", "blur", *(((256, 3, 1), "relu") * 3)],
        ["pool2", "blur", *(((512, 3, 1), "relu") * 3)],
        ["pool2", "blur", *(((512, 3, 1), "relu") * 3)],
    ],
}
_LPIPS_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS with random weights; `load_perceptual` loads the trained ones. It is never trained here."""

    def __init__(self, backbone: Literal["alex", "vgg"]) -> None:
        super().__init__()
        self.slices, self.heads = nn.ModuleList(), nn.ParameterList()
        channels = 3
        for layers in _BACKBONES[backbone]:
            made: list[nn.Module] = []
            for layer in layers:
                if isinstance(layer, tuple):
                    made.append(nn.Conv2d(channels, layer[0], layer[1], padding=layer[2]))
                    channels = layer[0]
                else:
                    made.append(_PLAIN[layer]())
            self.slices.append(nn.Sequential(*made))
            self.heads.append(nn.Parameter(torch.rand(1, channels, 1, 1)))
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y: (B, 3, H, W) in -1 … 1, at least 16 px a side. Returns (B,)."""
        total = x.new_zeros(len(x))
        # Two separate passes: if only one picture needs a gradient, the backward pass skips the other.
        for a, b, head in zip(self._features(x), self._features(y), self.heads, strict=True):
            total = total + ((a - b).square() * head).sum(1).mean((1, 2))
        return total

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """Each slice's features, of length 1 in every cell."""
        h = (x - self.shift) / self.scale
        for part in self.slices:
            h = part(h)
            # The small term keeps the gradient finite where every feature is zero.
            yield h * torch.rsqrt(h.square().sum(1, keepdim=True) + 1e-20)


class _Blur(nn.Module):
    """Halve by the filter 1 2 1, with two cells mirrored on every side."""

    def forward(self, h: Tensor) -> Tensor:
        row = h.new_tensor([0.25, 0.5, 0.25])
        kernel = (row[:, None] * row).expand(h.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(h, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=h.shape[1])


_PLAIN: dict[str, Any] = {
    "relu": nn.ReLU,
    "blur": _Blur,
    "pool2": lambda: nn.MaxPool2d(2, stride=1),
    "pool3": lambda: nn.MaxPool2d(3, stride=1),
}


def load_perceptual(name: Perceptual) -> nn.Module:
    """A module (x, y) → (B,) of pictures (B, 3, H, W) in -1 … 1.

    Raises ConfigError where the package or its weights are not on this machine, or the weights are not those known.
    """
    family, _, backbone = name.partition("-")
    if family == "stlpips" and backbone in SHA256:
        return _shift_tolerant(backbone)
    if family == "lpips" and backbone in _LPIPS_BACKBONES:
        return _lpips(backbone)
    raise ConfigError(f"There is no perceptual distance {name}: choose one of {', '.join(get_args(Perceptual))}.")


def _shift_tolerant(backbone: Any) -> ShiftTolerantLPIPS:
    # The package's own code imports what it doesn't declare, so only its weights are taken.
    spec = importlib.util.find_spec("stlpips_pytorch")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "The ST-LPIPS weights are not installed: pip install --no-deps stlpips-pytorch==0.0.2, or set perceptual "
            "to null."
        )
    file = Path(spec.origin).parent / "weights" / "vST0.0" / f"{backbone}_shift_tolerant.pth"
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != SHA256[backbone]:
        raise ConfigError(
            f"{file} is not the file that stlpips-pytorch 0.0.2 ships: pip install --no-deps --force-reinstall "
            "stlpips-pytorch==0.0.2."
        )
    saved = torch.load(file, map_location="cpu", weights_only=True)
    model = ShiftTolerantLPIPS(backbone)
    state = {"shift": saved["scaling_layer.shift"], "scale": saved["scaling_layer.scale"]}
    convolutions = [key.removesuffix(".weight") for key in saved if key.startswith("net.") and key.endswith(".weight")]
    own = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for mine, theirs in zip(own, convolutions, strict=True):
        state |= {f"{mine}.{part}": saved[f"{theirs}.{part}"] for part in ("weight", "bias")}
    state |= {f"heads.{i}": saved[f"lin{i}.model.1.weight"] for i in range(len(model.heads))}
    model.load_state_dict(state)
    return model


class _LPIPS(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.model(x, y)
        return found.flatten()


def _lpips(backbone: str) -> nn.Module:
    file = Path(torch.hub.get_dir()) / "checkpoints" / _LPIPS_BACKBONES[backbone]
    if not file.is_file():  # lpips would begin a download
        raise ConfigError(f"LPIPS needs its backbone's weights at {file}: put them there, or choose stlpips-alex.")
    import lpips

    return _LPIPS(lpips.LPIPS(net=backbone, verbose=False))
