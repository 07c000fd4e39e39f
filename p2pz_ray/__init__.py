"""pix2pix-zero at cluster scale: translate whole image collections with a pretrained Stable Diffusion, on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING

from p2pz_ray.version import __version__ as __version__

if TYPE_CHECKING:
    from p2pz_ray.editing import EditDirection, Editor, GuidanceSettings, Inversion, InversionSettings
    from p2pz_ray.jobs import direction, distill, evaluate, plan, translate
    from p2pz_ray.run import Run
    from p2pz_ray.student import Student

__all__ = [
    "EditDirection",
    "Editor",
    "GuidanceSettings",
    "Inversion",
    "InversionSettings",
    "Run",
    "Student",
    "direction",
    "distill",
    "evaluate",
    "plan",
    "translate",
]

_ELSEWHERE = {"Student": "student", "Run": "run"}
_ELSEWHERE |= dict.fromkeys(("direction", "evaluate", "plan", "translate"), "jobs")


def __getattr__(name: str) -> object:
    # Loaded on first use: usage errors of the command line should not wait for torch, nor a notebook for Ray.
    if name == "distill":  # a package that can be called
        return import_module("p2pz_ray.distill")
    if name in __all__:
        return getattr(import_module(f"p2pz_ray.{_ELSEWHERE.get(name, 'editing')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
