"""Low-rank adaptations (Hu et al. 2021) fused into a checkpoint's weights: W + scale · α/r · up @ down.

Files are read as diffusers, PEFT and kohya's scripts write them; what one holds for a layer that the checkpoint doesn't
have is refused.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from p2pz_ray.errors import ConfigError, first_line

_DOWN = re.compile(r"\.(lora_A|lora_down|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")
_UP = {
    "lora_A": "lora_B",
    "lora_down": "lora_up",
    "lora.down": "lora.up",
    "lora_linear_layer.down": "lora_linear_layer.up",
}
# How the files call a checkpoint's parts; kohya's names have "_" for every ".".
_PARTS = {
    "unet": ("unet.", "lora_unet_"),
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_"),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
}


@dataclass(frozen=True)
class Lora:
    """A file, and how much of it is added."""

    file: Path
    scale: float = 1.0

    @property
    def identity(self) -> list[object]:
        """What names its effect: its contents' sha256 and the scale."""
        return [hashlib.sha256(self._read()).hexdigest(), self.scale]

    def check(self) -> None:
        """Raise ConfigError where the file can't be read."""
        self._read(1)

    def _read(self, size: int = -1) -> bytes:
        try:
            with self.file.open("rb") as file:
                return file.read(size)
        except OSError as error:
            raise ConfigError(f"LoRA {self.file} can't be read ({first_line(error)}): check its path") from error


def fuse(lora: Lora, parts: Mapping[str, nn.Module]) -> int:
    """Add one file to the parts ("unet", "text_encoder", "text_encoder_2") that are given, in place; what it holds for
    others is left. Returns the number of layers changed.

    Raises ConfigError naming the file where it can't be read, fits no layer of a part, or holds something else besides.
    """
    try:
        tensors = load_file(lora.file)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"LoRA {lora.file} can't be read as safetensors ({first_line(error)})") from error
    layers = {part: _layers(module) for part, module in parts.items()}
    changed, known = 0, set()
    for name in sorted(tensors):
        match = _DOWN.search(name)
        if match is None:
            continue
        stem, kind = name[: match.start()], match[1]
        up = name.replace(f".{kind}", f".{_UP[kind]}")
        alpha = f"{stem}.alpha"
        known |= {name, up, alpha}
        part, layer = _home(stem)
        if part is None or up not in tensors:
            raise ConfigError(f"LoRA {lora.file} holds {name}, which belongs to no UNet or text encoder")
        if part not in layers:
            continue
        module = layers[part].get(_plain(layer))
        if module is None:
            raise ConfigError(f"LoRA {lora.file} is of another model: this one's {part} has no layer {layer}")
        _add(lora, module, tensors[name], tensors[up], tensors.get(alpha), f"{part} {layer}")
        changed += 1
    if not known or set(tensors) - known:
        other = next(iter(sorted(set(tensors) - known)), "nothing")
        raise ConfigError(f"LoRA {lora.file} holds {other}, which is no pair of low-rank weights")
    return changed


@torch.no_grad()
def _add(lora: Lora, module: nn.Module, down: Tensor, up: Tensor, alpha: Tensor | None, where: str) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    rank = down.shape[0]
    by = lora.scale * (1.0 if alpha is None else float(alpha) / rank)
    delta = up.float().flatten(1) @ down.float().flatten(1)
    if delta.numel() != weight.numel() or up.shape[0] != weight.shape[0]:
        raise ConfigError(f"LoRA {lora.file} is of another model: its {where} has another shape")
    weight.copy_(weight.float() + by * delta.reshape(weight.shape).to(weight.device))


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers with a weight, by their names without dots, and without the wrapper that older text models had."""
    found: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            found[_plain(name)] = layer
    return found


def _home(stem: str) -> tuple[str | None, str]:
    """The part and the layer that a name in a file means."""
    ordered: Iterable[tuple[str, str]] = sorted(
        ((prefix, part) for part, prefixes in _PARTS.items() for prefix in prefixes), key=lambda each: -len(each[0])
    )
    for prefix, part in ordered:
        if stem.startswith(prefix):
            return part, stem.removeprefix(prefix)
    return None, stem


def _plain(layer: str) -> str:
    return layer.replace(".", "_").removeprefix("text_model_")
