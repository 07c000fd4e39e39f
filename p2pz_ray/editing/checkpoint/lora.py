"""Low-rank adaptations (Hu et al. 2021) fused into a checkpoint's weights: W + scale · α/r · up @ down.

Files can be in the formats of diffusers, PEFT and kohya's scripts. A file with weights for a layer that the checkpoint
doesn't have is refused.
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
# The files' prefixes for a checkpoint's parts; kohya's names have "_" for every ".".
_PARTS = {
    "unet": ("unet.", "lora_unet_"),
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_"),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
}


@dataclass(frozen=True)
class Lora:
    """A file, and the scale at which it is added."""

    file: Path
    scale: float = 1.0

    @property
    def identity(self) -> list[object]:
        """What determines its effect: the sha256 of its contents, and the scale."""
        return [hashlib.sha256(self._read()).hexdigest(), self.scale]

    def check(self) -> None:
        """Raise ConfigError if the file can't be read."""
        self._read(1)

    def _read(self, size: int = -1) -> bytes:
        try:
            with self.file.open("rb") as file:
                return file.read(size)
        except OSError as error:
            raise ConfigError(f"LoRA {self.file} can't be read ({first_line(error)}): check its path") from error


def fuse(lora: Lora, parts: Mapping[str, nn.Module]) -> int:
    """Add one file, in place, to the weights of the given parts ("unet", "text_encoder", "text_encoder_2"); its weights
    for other parts are ignored. Returns the number of layers changed.

    Raises ConfigError, with the file named, if it can't be read, fits no layer of a part, or holds anything else.
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
        part, layer = _target(stem)
        if part is None or up not in tensors:
            raise ConfigError(f"LoRA {lora.file} holds {name}, which belongs to no UNet or text encoder")
        if part not in layers:
            continue
        module = layers[part].get(_plain(layer))
        if module is None:
            raise ConfigError(f"LoRA {lora.file} is for another model: this one's {part} has no layer {layer}")
        _add(lora, module, tensors[name], tensors[up], tensors.get(alpha), f"{part} {layer}")
        changed += 1
    if not known or set(tensors) - known:
        other = next(iter(sorted(set(tensors) - known)), "nothing")
        raise ConfigError(f"LoRA {lora.file} holds {other}, which isn't a pair of low-rank weights")
    return changed


@torch.no_grad()
def _add(lora: Lora, module: nn.Module, down: Tensor, up: Tensor, alpha: Tensor | None, where: str) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    rank = down.shape[0]
    scale = lora.scale * (1.0 if alpha is None else float(alpha) / rank)
    delta = up.float().flatten(1) @ down.float().flatten(1)
    if delta.numel() != weight.numel() or up.shape[0] != weight.shape[0]:
        raise ConfigError(f"LoRA {lora.file} is for another model: its {where} has another shape")
    weight.copy_(weight.float() + scale * delta.reshape(weight.shape).to(weight.device))


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolutional layers by name, with "_" for "." and without the wrapper of older text models."""
    layers: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layers[_plain(name)] = layer
    return layers


def _target(stem: str) -> tuple[str | None, str]:
    """The part and the layer that a name in a file stands for; the part is None if the prefix is unknown."""
    longest_first: Iterable[tuple[str, str]] = sorted(
        ((prefix, part) for part, prefixes in _PARTS.items() for prefix in prefixes), key=lambda pair: -len(pair[0])
    )
    for prefix, part in longest_first:
        if stem.startswith(prefix):
            return part, stem.removeprefix(prefix)
    return None, stem


def _plain(layer: str) -> str:
    return layer.replace(".", "_").removeprefix("text_model_")
