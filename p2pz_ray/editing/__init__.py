"""The method: plain PyTorch on diffusers' models. Imports no Ray."""

from p2pz_ray.editing.direction import EditDirection
from p2pz_ray.editing.editor import Editor
from p2pz_ray.editing.guidance import GuidanceSettings
from p2pz_ray.editing.inversion import Inversion, InversionSettings

__all__ = ["EditDirection", "Editor", "GuidanceSettings", "Inversion", "InversionSettings"]
