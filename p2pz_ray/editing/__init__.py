"""The method: plain PyTorch on diffusers' models. Imports no Ray."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pz_ray.editing.direction import EditDirection
    from p2pz_ray.editing.editor import Editor
    from p2pz_ray.editing.inversion import Inversion
    from p2pz_ray.editing.settings import GuidanceSettings, InversionSettings

__all__ = ["EditDirection", "Editor", "GuidanceSettings", "Inversion", "InversionSettings"]

_HOME = {
    "EditDirection": "direction",
    "Editor": "editor",
    "GuidanceSettings": "settings",
    "Inversion": "inversion",
    "InversionSettings": "settings",
}


def __getattr__(name: str) -> object:
    # Loaded on first use: a configuration needs the settings, and should not wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(f"p2pz_ray.editing.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
