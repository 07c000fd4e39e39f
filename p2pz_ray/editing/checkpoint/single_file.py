"""A checkpoint in one .safetensors file, as Stable Diffusion's own code writes it and model sites give it away: what it
is, and the weights of each part under the names that diffusers has for them.

The file holds weights alone. Configurations, tokenizers and the noise schedule are those of a folder in diffusers'
layout.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from p2pz_ray.editing.checkpoint.kind import ANOTHER, CHANNELS, read_json
from p2pz_ray.errors import ConfigError, first_line

Tensors = dict[str, Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
FAMILIES = {
    768: ("Stable Diffusion 1.x", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    1024: ("Stable Diffusion 2.x", "stabilityai/stable-diffusion-2-1"),
    2048: ("SDXL", "stabilityai/stable-diffusion-xl-base-1.0"),
}
"""By the width of the text that the UNet attends to: the name, and the hub's repository that has the layout."""


@dataclass(frozen=True)
class SingleFile:
    """A file, and the shapes of what it holds."""

    file: Path
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def read(cls, file: Path) -> "SingleFile":
        """From the file's head alone. Raises ConfigError for what is no safetensors file."""
        try:
            with safe_open(file, "pt") as opened:
                return cls(file, {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise ConfigError(
                f"model {file} can't be read as safetensors ({first_line(error)}): fetch it again"
            ) from error

    @property
    def family(self) -> tuple[str, str]:
        """The name of what it holds, and the repository that has its layout. Raises ConfigError for what can't be
        edited."""
        first = self.shapes.get(f"{UNET}input_blocks.0.0.weight")
        if first is None:
            self._refuse(self._other())
        if first[1] != 4:
            self._refuse(CHANNELS.get(first[1], f"of a UNet that takes {first[1]} channels and not 4"))
        if "edm_mean" in self.shapes:
            self._refuse("trained with EDM's noise, whose steps are no DDIM steps")
        widths = {shape[-1] for name, shape in self.shapes.items() if name.endswith(".attn2.to_k.weight")}
        found = FAMILIES.get(next(iter(widths), 0))
        if found is None:
            self._refuse(f"of a UNet that attends to texts of width {', '.join(map(str, sorted(widths))) or 'none'}")
        return found

    def layout(self, folder: Path) -> dict[str, str]:
        """The configurations that a folder in diffusers' layout has for this file, by their paths."""
        index = {
            part: made
            for part, made in read_json(folder / "model_index.json").items()
            if part not in ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker")
        }
        parts = [part for part, made in index.items() if isinstance(made, list) and made[0]]
        files = [file for part in parts for file in sorted((folder / part).glob("*")) if _configures(file)]
        texts = {file.relative_to(folder).as_posix(): file.read_text() for file in files}
        schedule = "scheduler/scheduler_config.json"
        said: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in self.shapes else {}
        said |= {"rescale_betas_zero_snr": True} if "ztsnr" in self.shapes else {}
        if said and schedule in texts:  # two empty tensors are how such files say it
            texts[schedule] = json.dumps(json.loads(texts[schedule]) | said)
        return {**texts, "model_index.json": json.dumps(index)}

    def check(self, folder: Path) -> None:
        """Raise ConfigError where the file lacks a weight that the folder's configurations ask for, or has it in
        another shape. Reads no weights."""
        for part in _parts(folder):
            self._part(folder, part, {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()})

    def write(self, folder: Path, part: str, target: Path) -> None:
        """Write one part's weights into a file of their own, in the precision that they have."""
        kept = _PREFIXES[part]
        with safe_open(self.file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in self.shapes if name.startswith(kept)}
        save_file(self._part(folder, part, tensors), target, {"format": "pt"})

    def _part(self, folder: Path, part: str, tensors: Tensors) -> Tensors:
        """Of this file's tensors those of a part, under diffusers' names."""
        with torch.device("meta"):
            empty = _EMPTY[part](folder / part)
        if not any(name.startswith(_PREFIXES[part]) for name in tensors):
            self._refuse(f"without its {part}: the file holds no {' or '.join(_PREFIXES[part])}…", "")
        found = _converted(part, empty, tensors)
        wanted = {name.removeprefix("text_model."): (name, part.shape) for name, part in empty.state_dict().items()}
        for name, (_, shape) in wanted.items():
            if name not in found or found[name].shape != shape:
                had = f"in the shape {list(found[name].shape)}" if name in found else "nowhere"
                raise ConfigError(
                    f"model {self.file} has the {part}'s {name} {had}, but by the configurations of its layout it is "
                    f"{list(shape)}: set model.layout to a checkpoint of the same family"
                )
        return {full: found[name].contiguous() for name, (full, _) in wanted.items()}

    def _other(self) -> str:
        """What a file is that holds no UNet of Stable Diffusion's own code."""
        if any("lora" in name for name in self.shapes):
            return "a LoRA: name it in model.loras"
        for name, what in (("joint_blocks.", "SD3"), ("double_blocks.", "FLUX")):
            if any(name in key for key in self.shapes):
                return f"{what}: it has a transformer in the UNet's place"
        if any(key.startswith("down_blocks.") for key in self.shapes):
            return "one part of a checkpoint in diffusers' layout, not all of it"
        return "no Stable Diffusion checkpoint: it holds no UNet"

    def _refuse(self, what: str, instead: str = f": {ANOTHER}") -> NoReturn:
        raise ConfigError(f"model {self.file} is {what}{instead}")


def _configures(file: Path) -> bool:
    return file.suffix in (".json", ".txt") and not file.name.endswith(".index.json")


def _parts(folder: Path) -> Iterable[str]:
    return [part for part in _EMPTY if (folder / part / "config.json").is_file()]


def _converted(part: str, empty: Any, tensors: Tensors) -> Tensors:
    """By diffusers' own converters; a text encoder's names are without the wrapper that some have."""
    from diffusers.loaders import single_file_utils as diffusers

    if part == "unet":
        return diffusers.convert_ldm_unet_checkpoint(tensors, dict(empty.config))
    if part == "vae":
        return diffusers.convert_ldm_vae_checkpoint(tensors, dict(empty.config))
    opened = next((p for p in (OPEN_CLIP, XL_OPEN_CLIP) if p in _PREFIXES[part] and _any(tensors, p)), None)
    if opened is not None:
        found = diffusers.convert_open_clip_checkpoint(empty, tensors, prefix=opened)
    else:
        found = diffusers.convert_ldm_clip_checkpoint(tensors)
    return {name.removeprefix("text_model."): tensor for name, tensor in found.items()}


def _any(tensors: Tensors, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


_PREFIXES = {
    "unet": (UNET,),
    "vae": (VAE,),
    "text_encoder": (CLIP, OPEN_CLIP, XL_CLIP),
    "text_encoder_2": (XL_OPEN_CLIP,),
}
_EMPTY: dict[str, Callable[[Path], Any]] = {
    "unet": lambda folder: UNet2DConditionModel.from_config(read_json(folder / "config.json")),
    "vae": lambda folder: AutoencoderKL.from_config(read_json(folder / "config.json")),
    "text_encoder": lambda folder: CLIPTextModel(CLIPTextConfig.from_pretrained(folder)),
    "text_encoder_2": lambda folder: CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder)),
}
