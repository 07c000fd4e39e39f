"""Conditioning a UNet on pictures besides text, by ControlNets (Zhang et al. 2023) and T2I-Adapters (Mou et al. 2023),
as diffusers computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from p2pz_ray.editing.canny import edges
from p2pz_ray.editing.checkpoint.files import fingerprint
from p2pz_ray.editing.checkpoint.kind import read_json
from p2pz_ray.editing.checkpoint.weights import variant_in
from p2pz_ray.editing.text import UNLOADABLE
from p2pz_ray.errors import ConfigError, first_line

KINDS: dict[str, Any] = {"ControlNetModel": ControlNetModel, "T2IAdapter": T2IAdapter}
Hint = tuple[Tensor, ...]
"""A control's encoding of n pictures, computed once before the steps; each tensor has n rows."""


@dataclass(frozen=True)
class Control:
    """A checkpoint and its weight; with a weight of 0 it has no effect.

    source: "given" pictures, or the "edges" of the images themselves.
    """

    folder: Path
    weight: float = 1.0
    source: Literal["given", "edges"] = "given"

    @property
    def identity(self) -> str:
        """Values that identify its effect."""
        return f"{fingerprint(self.folder)} {self.weight} {self.source}"


class Controls:
    """The controls of one UNet, loaded. Those of weight 0 take no part."""

    def __init__(self, given: Sequence[Control], modules: Sequence[ControlNetModel | T2IAdapter]) -> None:
        self.given = tuple(given)
        self.modules = [module.eval().requires_grad_(False) for module in modules]

    @classmethod
    def load(cls, given: Sequence[Control], unet: UNet2DConditionModel) -> "Controls":
        """In the UNet's precision and on its device. Raises ConfigError for what is no control or doesn't fit."""
        modules = []
        for control in given:
            check_control(control.folder, dict(unet.config))
            kind = KINDS[read_json(control.folder / "config.json")["_class_name"]]
            try:
                module = kind.from_pretrained(
                    control.folder,
                    variant=variant_in(control.folder, unet.dtype != torch.float32),
                    dtype=unet.dtype,
                    use_safetensors=True,
                    low_cpu_mem_usage=False,
                )
            except UNLOADABLE as error:
                raise ConfigError(f"condition {control.folder} can't be loaded: {first_line(error)}") from error
            modules.append(module.to(unet.device))
        return cls(given, modules)

    def __len__(self) -> int:
        return len(self.given)

    def pictures(self, images: NDArray[np.uint8], given: Sequence[NDArray[np.uint8] | None]) -> list[NDArray[np.uint8]]:
        """Each control's pictures for B images (B, H, W, 3): the given ones, or the images' own edges. Raises
        ValueError unless there is a picture for each image, of the same size."""
        given = given or [None] * len(self)
        if len(given) != len(self):
            raise ValueError(f"{len(given)} condition pictures for {len(self)} conditions: give one of each")
        shown = []
        for control, pictures in zip(self.given, given, strict=True):
            if control.source == "edges":
                shown.append(np.stack([edges(image) for image in images]))
                continue
            if pictures is None or pictures.shape != images.shape or pictures.dtype != np.uint8:
                found = "none" if pictures is None else f"{pictures.dtype} {pictures.shape}"
                raise ValueError(f"condition pictures are {found}: give uint8 {images.shape}, one an image")
            shown.append(pictures)
        return shown

    @torch.no_grad()
    def hints(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Hint, ...]:
        """Each control's encoding of its pictures (B, H, W, 3), once for all steps: an adapter's features, or for a
        ControlNet the pixels in 0 … 1. Raises ConfigError for a size that an adapter can't take."""
        made: list[Hint] = []
        for control, module, each in zip(self.given, self.modules, pictures, strict=True):
            if not control.weight:
                made.append(())
                continue
            signal = torch.from_numpy(np.ascontiguousarray(each)).permute(0, 3, 1, 2).float() / 255
            signal = signal.contiguous().to(module.device, module.dtype)
            if isinstance(module, ControlNetModel):
                made.append((signal,))
                continue
            if any(side % module.total_downscale_factor for side in signal.shape[-2:]):
                raise ConfigError(
                    f"condition {control.folder} needs height and width in multiples of "
                    f"{module.total_downscale_factor}: set image.size"
                )
            made.append(tuple(module(signal)))
        return tuple(made)

    def residuals(
        self, x: Tensor, t: Tensor, tokens: Tensor, hints: tuple[Hint, ...], added: dict[str, Tensor] | None
    ) -> dict[str, Any]:
        """The residuals that the UNet adds, as its keyword arguments."""
        found: dict[str, Any] = {}
        for control, module, hint in zip(self.given, self.modules, hints, strict=True):
            if not hint:
                continue
            if isinstance(module, ControlNetModel):
                down, middle = module(x, t, tokens, hint[0], control.weight, added_cond_kwargs=added, return_dict=False)
                before = found.get("down_block_additional_residuals")
                if before is not None:
                    down = [a + b for a, b in zip(before, down, strict=True)]
                    middle = found["mid_block_additional_residual"] + middle
                found |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            else:
                own = [control.weight * feature for feature in hint]
                others = found.get("down_intrablock_additional_residuals")
                if others is not None:
                    own = [a + b for a, b in zip(others, own, strict=True)]
                found["down_intrablock_additional_residuals"] = own
        return found


def check_control(folder: Path, unet: dict[str, Any]) -> None:
    """Raise ConfigError, naming why, for a folder that is no ControlNet or T2I-Adapter, or one for another family than
    that of a UNet's configuration."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"condition {folder} is no ControlNet or T2I-Adapter: it has no config.json")
    own = read_json(folder / "config.json")
    kind = own.get("_class_name")
    if kind not in KINDS:
        raise ConfigError(f"condition {folder} is a {kind}: give a ControlNetModel or a T2IAdapter")
    channels = list(unet.get("block_out_channels") or ())
    wanted: tuple[Any, ...]
    has: tuple[Any, ...]
    if kind == "ControlNetModel":
        if own.get("conditioning_channels", 3) != 3:
            raise ConfigError(f"condition {folder} takes {own['conditioning_channels']} channels and not a picture's 3")
        wanted = (channels, unet.get("cross_attention_dim"), unet.get("addition_embed_type"))
        has = (list(own["block_out_channels"]), own.get("cross_attention_dim"), own.get("addition_embed_type"))
    else:
        if own.get("in_channels", 3) != 3:
            raise ConfigError(f"condition {folder} takes {own['in_channels']} channels and not a picture's 3")
        # There may be more than the UNet has levels: SDXL's adapters have features for its middle block too.
        wanted = (sorted(set(channels)), unet.get("addition_embed_type") == "text_time")
        has = (sorted(set(own.get("channels") or ())), own.get("adapter_type") == "full_adapter_xl")
    if has != wanted:
        raise ConfigError(
            f"condition {folder} was made for another family of checkpoints: it is of {_said(has)}, the model of "
            f"{_said(wanted)}"
        )


def _said(layout: tuple[Any, ...]) -> str:
    return " ".join(map(str, layout))
