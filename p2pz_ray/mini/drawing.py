"""Draws a scene: backdrop, animal, what it wears, each in the scene's style, anti-aliased by supersampling.

Everything that the animal touches is in its mask.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from p2pz_ray.mini.animal import large_animal, small_animal
from p2pz_ray.mini.attire import glasses, hat
from p2pz_ray.mini.pen import LINES, STYLES, Pen, Style
from p2pz_ray.mini.scene import SMALL, Scene
from p2pz_ray.mini.scenery import scenery, shadow

SUPERSAMPLE = 4


@lru_cache(maxsize=8)
def _strokes(size: int) -> NDArray[np.float32]:
    """The broad slanting strokes of oil pastel, the same in all pictures of one size: (size, size, 1), around 1."""
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    wave = np.sin(2 * np.pi * (9 * u + 6 * v + 0.25 * np.sin(2 * np.pi * 2 * (u - v))))
    return (1 + 0.07 * wave[..., None]).astype(np.float32)


def render(scene: Scene, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a scene.

    Returns the picture, (size, size, 3) uint8 sRGB, and the animal's mask, (size, size) bool: every pixel
    that the animal touches at all, so that outside the masks of a scene and of its counterfactual the two
    pictures are equal (where the edit is not to another style, season or place).
    """
    side, style = size * SUPERSAMPLE, STYLES[scene.style]
    picture = _stage(scene, side, style)
    mask = _draw(scene, picture, style)
    touched = np.asarray(mask).reshape(size, SUPERSAMPLE, size, SUPERSAMPLE).max(axis=(1, 3)) > 0
    return _pixels(picture, scene, size), touched


def outline(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The scene's animal as white lines on black, (size, size, 3) uint8, as a person might sketch it."""
    side = size * SUPERSAMPLE
    picture = Image.new("RGB", (side, side))
    _draw(scene, picture, LINES)
    return np.asarray(picture.reduce(SUPERSAMPLE))


def _draw(scene: Scene, picture: Image.Image, style: Style) -> Image.Image:
    """Draw the animal on a picture; returns a picture of the pixels it touches, white on black."""
    side = picture.width
    mask = Image.new("L", (side, side))
    half, sign = scene.size * side / 2, -1 if scene.flip else 1
    start = (sign * half, 0.0, scene.x * side, 0.0, half, scene.y * side)
    pen = Pen(ImageDraw.Draw(picture), ImageDraw.Draw(mask), style, side, start).at(0, 0, scene.tilt)
    head = (small_animal if scene.kind in SMALL else large_animal)(pen, scene)
    if scene.glasses:
        glasses(head)
    if scene.hat:
        hat(head)
    return mask


def backdrop(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The scene without its animal, (size, size, 3) uint8: equal to `render`'s picture outside its mask."""
    return _pixels(_stage(scene, size * SUPERSAMPLE, STYLES[scene.style]), scene, size)


def _stage(scene: Scene, side: int, style: Style) -> Image.Image:
    picture = scenery(scene, side, style)
    shadow(picture, scene, side, style)
    return picture


def _pixels(picture: Image.Image, scene: Scene, size: int) -> NDArray[np.uint8]:
    pixels = np.asarray(picture.reduce(SUPERSAMPLE))
    if scene.style == "oil pastel":
        pixels = (pixels * _strokes(size)).clip(0, 255).round().astype(np.uint8)
    return pixels
