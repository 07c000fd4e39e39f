"""A small world of drawn animals in which every edit has an exact answer.

A `Scene` has a few independent attributes. `render` draws it and `caption` describes it in English.
`Scene.with_(kind="dog")` is its counterfactual: the same scene with another animal, equal to the first in every pixel
outside the two animals' masks.
"""

from p2pz_ray.mini.drawing import backdrop, outline, render
from p2pz_ray.mini.scene import CHOICES, COATS, GROUNDS, KINDS, SEASONS, SKIES, STYLES, Scene, sample_scene
from p2pz_ray.mini.wording import caption

__all__ = [
    "CHOICES", "COATS", "GROUNDS", "KINDS", "SEASONS", "SKIES", "STYLES", "Scene", "backdrop", "caption", "outline",
    "render", "sample_scene",
]  # fmt: skip
