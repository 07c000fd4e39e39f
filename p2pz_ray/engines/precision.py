"""The precision that a model computes in."""

from typing import Protocol

import torch

from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.engine import InversionConfig
from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.editing import GuidanceSettings


class Modelled(Protocol):
    """A configuration, as far as it names a diffusion model and its settings."""

    @property
    def model(self) -> CheckpointConfig: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def compile(self) -> bool: ...
    @property
    def checkpointing(self) -> bool: ...
    @property
    def inversion(self) -> InversionConfig: ...
    @property
    def guidance(self) -> GuidanceSettings: ...


def dtype_of(config: TranslateConfig, device: str) -> torch.dtype:
    """The precision of a configuration's engine on a device."""
    return torch_dtype(config.dtype, device) if config.student is None else torch.float32


def torch_dtype(name: str, device: str) -> torch.dtype:
    """The precision of a diffusion model on a device."""
    if name == "auto":
        return torch.float16 if device == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def in_half(config: Modelled) -> bool:
    """Whether a configuration's model computes in half precision, as far as that is known before Ray is."""
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return torch_dtype(config.dtype, "cuda" if on_gpu else "cpu") != torch.float32
