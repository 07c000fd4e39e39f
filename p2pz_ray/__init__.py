"""pix2pix-zero at cluster scale: translate whole image collections with a pretrained Stable Diffusion, on Ray."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pz_ray.editing import EditDirection, Editor, GuidanceSettings, Inversion, InversionSettings
    from p2pz_ray.student import Student

__version__ = "0.1.0"
__all__ = ["EditDirection", "Editor", "GuidanceSettings", "Inversion", "InversionSettings", "Student"]


def __getattr__(name: str) -> object:
    # Loaded on first use: the command line's wrong-usage answers should not wait for torch.
    if name == "Student":
        from p2pz_ray.student import Student

        return Student
    if name in __all__:
        from p2pz_ray import editing

        return getattr(editing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
