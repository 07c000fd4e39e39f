"""A checkpoint in a single .safetensors file, as Stable Diffusion's own code writes it and model sites offer it: what
kind it is, and the weights of each part under diffusers' names.

The file holds only weights. Configurations, tokenizers and the noise schedule come from a folder in diffusers' layout.
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
"""By the width of the text embeddings that the UNet attends to: the name, and the hub's repository with the layout."""


@dataclass(frozen=True)
class SingleFile:
    """A file, and the shapes of its tensors."""

    file: Path
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def read(cls, file: Path) -> "SingleFile":
        """Reads only the file's header. Raises ConfigError if it isn't a safetensors file."""
        try:
            with safe_open(file, "pt") as opened:
                return cls(file, {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise ConfigError(
                f"model {file} can't be read as safetensors ({first_line(error)}): fetch it again"
            ) from error

    @property
    def family(self) -> tuple[str, str]:
        """The family's name, and the repository with its layout. Raises ConfigError for a checkpoint that the method
        can't edit with."""
        first = self.shapes.get(f"{UNET}input_blocks.0.0.weight")
        if first is None:
            self._refuse(self._other())
        if first[1] != 4:
            self._refuse(CHANNELS.get(first[1], f"of a UNet that takes {first[1]} channels instead of 4"))
        if "edm_mean" in self.shapes:
            self._refuse("trained with EDM's noise, whose steps aren't DDIM steps")
        widths = {shape[-1] for name, shape in self.shapes.items() if name.endswith(".attn2.to_k.weight")}
        family = FAMILIES.get(next(iter(widths), 0))
        if family is None:
            self._refuse(f"of a UNet that attends to texts of width {', '.join(map(str, sorted(widths))) or 'none'}")
        return family

    def layout(self, folder: Path) -> dict[str, str]:
        """Path → text of the configuration files for this file, from a folder in diffusers' layout."""
        index = {
            part: kind
            for part, kind in read_json(folder / "model_index.json").items()
            if part not in ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker")
        }
        parts = [part for part, kind in index.items() if isinstance(kind, list) and kind[0]]
        files = [file for part in parts for file in sorted((folder / part).glob("*")) if _configures(file)]
        texts = {file.relative_to(folder).as_posix(): file.read_text() for file in files}
        schedule = "scheduler/scheduler_config.json"
        # Such files mark v-prediction and zero terminal SNR by empty tensors of these names.
        marked: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in self.shapes else {}
        marked |= {"rescale_betas_zero_snr": True} if "ztsnr" in self.shapes else {}
        if marked and schedule in texts:
            texts[schedule] = json.dumps(json.loads(texts[schedule]) | marked)
        return {**texts, "model_index.json": json.dumps(index)}

    def check(self, folder: Path) -> None:
        """Raise ConfigError if the file lacks a weight that the folder's configurations require, or has it in another
        shape. Reads no weights."""
        for part in _parts(folder):
            self._part(folder, part, {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()})

    def write(self, folder: Path, part: str, target: Path) -> None:
        """Write one part's weights to a separate file, without changing their precision."""
        prefixes = _PREFIXES[part]
        with safe_open(self.file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in self.shapes if name.startswith(prefixes)}
        save_file(self._part(folder, part, tensors), target, {"format": "pt"})

    def _part(self, folder: Path, part: str, tensors: Tensors) -> Tensors:
        """The tensors of a part, from the file's tensors, under diffusers' names."""
        with torch.device("meta"):
            empty = _EMPTY[part](folder / part)
        if not any(name.startswith(_PREFIXES[part]) for name in tensors):
            self._refuse(f"without its {part}: the file holds no {' or '.join(_PREFIXES[part])}…", "")
        converted = _convert(part, empty, tensors)
        wanted = {name.removeprefix("text_model."): (name, part.shape) for name, part in empty.state_dict().items()}
        for name, (_, shape) in wanted.items():
            if name not in converted or converted[name].shape != shape:
                problem = f"lacks the {part}'s {name}"
                if name in converted:
                    problem = f"has the {part}'s {name} in the shape {list(converted[name].shape)}"
                raise ConfigError(
                    f"model {self.file} {problem}, but its layout's configurations give it the shape {list(shape)}: "
                    "set model.layout to a checkpoint of the same family"
                )
        return {full: converted[name].contiguous() for name, (full, _) in wanted.items()}

    def _other(self) -> str:
        """What a file is if it doesn't hold a UNet in the layout of Stable Diffusion's own code."""
        if any("lora" in name for name in self.shapes):
            return "a LoRA: name it in model.loras"
        for name, what in (("joint_blocks.", "SD3"), ("double_blocks.", "FLUX")):
            if any(name in key for key in self.shapes):
                return f"{what}: it has a transformer instead of a UNet"
        if any(key.startswith("down_blocks.") for key in self.shapes):
            return "only one part of a checkpoint in diffusers' layout"
        return "not a Stable Diffusion checkpoint: it holds no UNet"

    def _refuse(self, what: str, instead: str = f": {ANOTHER}") -> NoReturn:
        raise ConfigError(f"model {self.file} is {what}{instead}")


def _configures(file: Path) -> bool:
    return file.suffix in (".json", ".txt") and not file.name.endswith(".index.json")


def _parts(folder: Path) -> Iterable[str]:
    return [part for part in _EMPTY if (folder / part / "config.json").is_file()]


def _convert(part: str, empty: Any, tensors: Tensors) -> Tensors:
    """Uses diffusers' own converters. Names of text encoders are returned without the wrapper that some have."""
    from diffusers.loaders import single_file_utils as diffusers

    if part == "unet":
        return diffusers.convert_ldm_unet_checkpoint(tensors, dict(empty.config))
    if part == "vae":
        return diffusers.convert_ldm_vae_checkpoint(tensors, dict(empty.config))
    prefix = next((p for p in (OPEN_CLIP, XL_OPEN_CLIP) if p in _PREFIXES[part] and _any(tensors, p)), None)
    if prefix is not None:
        converted = diffusers.convert_open_clip_checkpoint(empty, tensors, prefix=prefix)
    else:
        converted = diffusers.convert_ldm_clip_checkpoint(tensors)
    return {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}


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
