"""Draws a scene: backdrop, animal, what it wears, each in the scene's style, anti-aliased by supersampling.

An animal is put together from parts that do not depend on one another: a body for its family and pose, a head for its
kind and view, glasses and hat for any head. Everything the animal touches is in its mask.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from p2pz_ray.mini.scene import SMALL, Scene

RGB = tuple[int, int, int]
Point = tuple[float, float]
Points = list[Point]

SUPERSAMPLE = 4
COATS: dict[str, RGB] = {
    "black": (58, 54, 62),
    "white": (244, 242, 236),
    "grey": (142, 146, 156),
    "brown": (128, 80, 44),
    "ginger": (232, 132, 42),
    "cream": (240, 210, 154),
}
GROUNDS: dict[str, RGB] = {
    "grass": (104, 176, 76),
    "sand": (234, 204, 120),
    "wood": (168, 110, 64),
    "stone": (150, 148, 148),
    "carpet": (186, 58, 70),
    "tiles": (84, 136, 196),
}
SKIES: dict[str, tuple[RGB, RGB]] = {  # at the top and at the horizon
    "blue sky": ((112, 176, 240), (198, 226, 250)),
    "sunset": ((238, 112, 96), (254, 212, 132)),
    "night": ((22, 26, 70), (66, 72, 132)),
    "mist": ((188, 196, 204), (222, 226, 228)),
    "wall": ((152, 206, 184), (152, 206, 184)),
}
INK: RGB = (32, 28, 32)
PINK: RGB = (236, 150, 150)
SNOW: RGB = (246, 249, 255)
PAPER: RGB = (250, 248, 242)
PENCIL: RGB = (92, 90, 96)
_RIM = [2 * math.pi * i / 26 for i in range(26)]


def shade(colour: RGB, amount: float) -> RGB:
    """Lighter for a positive amount, darker for a negative one (-1 … 1)."""
    return mix(colour, (255, 255, 255) if amount > 0 else (0, 0, 0), abs(amount))


def contrast(colour: RGB, amount: float) -> RGB:
    """A visible neighbour of a colour: darker for a light one, lighter for a dark one."""
    return shade(colour, -amount if sum(colour) > 240 else amount)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


class Style(NamedTuple):
    """How a style turns a shape's colour into its filling and its outline; `outline` is its width in sides. In a
    `hollow` one thin strokes are outlines too."""

    fill: Callable[[RGB], RGB]
    edge: Callable[[RGB], RGB]
    outline: float
    hollow: bool = False


@lru_cache(maxsize=4096)
def _vivid(colour: RGB) -> RGB:
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(h, min(1, 1.35 * s), min(1, 0.06 + 0.96 * v)))  # type: ignore[return-value]


STYLES = {
    "photo": Style(lambda c: c, lambda c: c, 0.0),
    "sketch": Style(lambda c: mix(c, PAPER, 0.62), lambda c: mix(PENCIL, c, 0.15), 0.012),
    "oil pastel": Style(_vivid, lambda c: shade(_vivid(c), -0.42), 0.016),
}
LINES = Style(lambda c: (0, 0, 0), lambda c: (255, 255, 255), 0.016, hollow=True)
"""White lines on black, as what is told by outlines was trained on."""


@dataclass(frozen=True)
class Pen:
    """Draws shapes given in coordinates of its own (u to the right, v down) on a picture and a mask."""

    picture: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    style: Style
    side: int
    matrix: tuple[float, float, float, float, float, float]
    """u, v → a·u + b·v + x, c·u + d·v + y, in pixels."""

    def at(self, u: float, v: float, turn: float = 0.0, zoom: float = 1.0) -> "Pen":
        """A pen whose origin is at (u, v), turned by degrees clockwise."""
        a, b, x, c, d, y = self.matrix
        p, q = zoom * math.cos(math.radians(turn)), zoom * math.sin(math.radians(turn))
        matrix = (a * p + b * q, b * p - a * q, a * u + b * v + x, c * p + d * q, d * p - c * q, c * u + d * v + y)
        return Pen(self.picture, self.mask, self.style, self.side, matrix)

    def place(self, points: Points) -> Points:
        a, b, x, c, d, y = self.matrix
        return [(a * u + b * v + x, c * u + d * v + y) for u, v in points]

    @property
    def scale(self) -> float:
        return math.hypot(self.matrix[0], self.matrix[3])

    def shape(self, points: Points, colour: RGB) -> None:
        placed = self.place(points)
        self.picture.polygon(placed, fill=self.style.fill(colour))
        self.mask.polygon(placed, fill=255)
        if self.style.outline:
            width = round(self.style.outline * self.side)
            self.picture.line([*placed, placed[0], placed[1]], fill=self.style.edge(colour), width=width, joint="curve")
            self.mask.line([*placed, placed[0], placed[1]], fill=255, width=width, joint="curve")

    def oval(self, u: float, v: float, ru: float, rv: float, colour: RGB, turn: float = 0.0) -> None:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        rim = [(ru * math.cos(t), rv * math.sin(t)) for t in _RIM]
        self.shape([(u + p * cos - q * sin, v + p * sin + q * cos) for p, q in rim], colour)

    def line(self, points: Points, width: float, colour: RGB) -> None:
        """A stroke with round ends; thin ones have no outline."""
        thick = max(2, round(width * self.scale))
        more = 2 * round(self.style.outline * self.side) if width > 0.1 else 0
        if self.style.hollow and not more:
            self._stroke(points, round(self.style.outline * self.side), self.style.edge(colour))
            return
        if more:
            self._stroke(points, thick + more // 2, self.style.edge(colour))
        self._stroke(points, thick - more // 2, self.style.fill(colour))

    def _stroke(self, points: Points, thick: int, colour: RGB) -> None:
        placed, r = self.place(points), thick / 2
        for draw, fill in ((self.picture, colour), (self.mask, 255)):
            draw.line(placed, fill=fill, width=thick, joint="curve")  # type: ignore[arg-type]
            for x, y in (placed[0], placed[-1]):
                draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)  # type: ignore[arg-type]


def curve(p0: Point, p1: Point, p2: Point, n: int = 9) -> Points:
    """A quadratic Bézier curve as points."""
    ts = [i / (n - 1) for i in range(n)]
    return [
        (
            (1 - t) ** 2 * p0[0] + 2 * t * (1 - t) * p1[0] + t * t * p2[0],
            (1 - t) ** 2 * p0[1] + 2 * t * (1 - t) * p1[1] + t * t * p2[1],
        )
        for t in ts
    ]


# ----------------------------------------------------------------------------------------- small animals


def _small_body(pen: Pen, scene: Scene, coat: RGB) -> Pen:
    """Body, legs and paws that cats, dogs, foxes and rabbits share; returns the pen of the head."""
    dark, light = contrast(coat, 0.2), shade(coat, 0.4)
    if scene.pose == "alert":
        pen.oval(0.0, 0.5, 0.44, 0.5, coat)
        pen.oval(-0.34, 0.74, 0.23, 0.23, dark)
        pen.oval(0.34, 0.74, 0.23, 0.23, dark)
        pen.oval(0.0, 0.46, 0.2, 0.34, light)
        for u in (-0.15, 0.15):
            pen.line([(u, 0.52), (u, 0.86)], 0.2, coat)
            pen.oval(u, 0.91, 0.14, 0.09, light)
        return pen.at(0.0, -0.34)
    pen.oval(0.16, 0.62, 0.74, 0.36, coat)
    pen.oval(0.56, 0.74, 0.26, 0.24, dark)
    for u in (-0.5, -0.1):
        pen.line([(u + 0.16, 0.84), (u - 0.06, 0.88)], 0.18, coat)
        pen.oval(u - 0.1, 0.89, 0.14, 0.1, light)
    return pen.at(-0.24, 0.12)


def _tail(pen: Pen, scene: Scene, long: bool, width: float, coat: RGB, tip: RGB) -> None:
    if scene.pose == "alert":
        path = curve((0.34, 0.82), (0.98, 0.84), (0.82, 0.1 if long else 0.36))
    else:
        path = curve((0.74, 0.76), (1.06, 0.62), (0.9, 0.1 if long else 0.3))
    pen.line(path, width, coat)
    pen.line(path[-3:], width, tip)


def _eyes(pen: Pen, at: Points, white: RGB, pupil: RGB, r: float = 0.11) -> None:
    for u, v in at:
        pen.oval(u, v, r, r * 1.1, white)
        pen.oval(u, v, r * 0.5, r * 0.85, pupil)


class Head(NamedTuple):
    """Where things are put on a head that was drawn: in front of each eye, and on top."""

    pen: Pen
    eyes: Points
    lens: float
    top: Point
    brim: float


def _cat_head(pen: Pen, scene: Scene, coat: RGB) -> Head:
    dark, light = contrast(coat, 0.32), shade(coat, 0.45)
    whisker: RGB = INK if sum(coat) > 330 else (236, 236, 240)
    green: RGB = (150, 220, 84)
    if scene.view == "front":
        for s in (-1, 1):
            pen.shape([(s * 0.52, -0.1), (s * 0.48, -0.7), (s * 0.06, -0.36)], coat)
            pen.shape([(s * 0.42, -0.22), (s * 0.42, -0.54), (s * 0.18, -0.34)], PINK)
        pen.oval(0.0, 0.0, 0.54, 0.44, coat)
        for u in (-0.13, 0.0, 0.13):
            pen.line([(u, -0.38), (u * 0.8, -0.22)], 0.06, dark)
        pen.oval(0.0, 0.2, 0.22, 0.16, light)
        eyes = [(-0.23, -0.04), (0.23, -0.04)]
        _eyes(pen, eyes, green, INK, 0.13)
        pen.shape([(-0.08, 0.09), (0.08, 0.09), (0.0, 0.19)], (222, 92, 110))
        for s in (-1, 1):
            for end in (0.08, 0.24, 0.4):
                pen.line([(s * 0.2, 0.2), (s * 0.74, end)], 0.045, whisker)
        return Head(pen, eyes, 0.2, (0.0, -0.38), 0.4)
    pen.shape([(-0.36, -0.16), (-0.3, -0.72), (0.08, -0.34)], coat)
    pen.shape([(-0.25, -0.28), (-0.23, -0.56), (-0.02, -0.34)], PINK)
    pen.oval(0.0, 0.0, 0.48, 0.43, coat)
    pen.oval(0.4, 0.14, 0.2, 0.16, light)
    for u in (-0.34, -0.22):
        pen.line([(u, 0.04), (u - 0.02, 0.2)], 0.06, dark)
    eyes = [(0.2, -0.08)]
    _eyes(pen, eyes, green, INK, 0.13)
    pen.oval(0.57, 0.07, 0.06, 0.055, (222, 92, 110))
    for end in (0.14, 0.3, 0.46):
        pen.line([(0.4, 0.18), (-0.08, end)], 0.045, whisker)
    return Head(pen, eyes, 0.2, (0.02, -0.38), 0.38)


def _dog_head(pen: Pen, scene: Scene, coat: RGB) -> Head:
    dark, light = contrast(coat, 0.42), shade(coat, 0.5)
    white: RGB = (250, 250, 250)
    if scene.view == "front":
        pen.oval(0.0, -0.02, 0.48, 0.46, coat)
        for s in (-1, 1):
            pen.oval(s * 0.51, 0.04, 0.16, 0.42, dark, turn=-s * 12)
        pen.oval(0.0, 0.42, 0.1, 0.17, (236, 104, 122))
        pen.oval(0.0, 0.22, 0.28, 0.24, light)
        pen.line(curve((-0.16, 0.34), (0.0, 0.44), (0.16, 0.34)), 0.05, INK)
        pen.oval(0.0, 0.12, 0.15, 0.1, INK)
        eyes = [(-0.21, -0.14), (0.21, -0.14)]
        _eyes(pen, eyes, white, (60, 36, 22), 0.11)
        return Head(pen, eyes, 0.18, (0.0, -0.42), 0.4)
    pen.oval(0.0, -0.02, 0.44, 0.44, coat)
    pen.oval(0.5, 0.36, 0.08, 0.16, (236, 104, 122))
    pen.oval(0.44, 0.18, 0.36, 0.19, light)
    pen.line(curve((0.3, 0.3), (0.5, 0.34), (0.74, 0.24)), 0.05, INK)
    pen.oval(0.76, 0.08, 0.11, 0.1, INK)
    pen.oval(-0.26, 0.06, 0.17, 0.42, dark, turn=8)
    eyes = [(0.18, -0.14)]
    _eyes(pen, eyes, white, (60, 36, 22), 0.12)
    return Head(pen, eyes, 0.18, (0.0, -0.42), 0.38)


def _fox_head(pen: Pen, scene: Scene, coat: RGB) -> Head:
    light = shade(coat, 0.72)
    amber: RGB = (250, 196, 60)
    if scene.view == "front":
        for s in (-1, 1):
            pen.shape([(s * 0.54, -0.14), (s * 0.56, -0.76), (s * 0.12, -0.36)], coat)
            pen.shape([(s * 0.5, -0.44), (s * 0.56, -0.76), (s * 0.32, -0.54)], INK)
        pen.shape([(-0.6, 0.02), (-0.36, -0.4), (0.36, -0.4), (0.6, 0.02), (0.1, 0.5), (-0.1, 0.5)], coat)
        for s in (-1, 1):
            pen.shape([(s * 0.6, 0.02), (s * 0.3, 0.04), (s * 0.03, 0.3), (s * 0.05, 0.5), (s * 0.1, 0.5)], light)
        pen.oval(0.0, 0.44, 0.11, 0.1, INK)
        eyes = [(-0.24, -0.08), (0.24, -0.08)]
        _eyes(pen, eyes, amber, INK, 0.1)
        return Head(pen, eyes, 0.18, (0.0, -0.38), 0.4)
    pen.shape([(-0.36, -0.16), (-0.34, -0.78), (0.08, -0.34)], coat)
    pen.shape([(-0.34, -0.5), (-0.34, -0.78), (-0.12, -0.53)], INK)
    pen.oval(-0.04, -0.02, 0.42, 0.4, coat)
    pen.shape([(0.1, -0.26), (0.86, 0.2), (0.84, 0.3), (0.1, 0.34)], coat)
    pen.shape([(0.86, 0.3), (0.1, 0.16), (-0.24, 0.26), (0.06, 0.4)], light)
    pen.oval(0.86, 0.2, 0.1, 0.09, INK)
    eyes = [(0.16, -0.08)]
    _eyes(pen, eyes, amber, INK, 0.11)
    return Head(pen, eyes, 0.18, (-0.04, -0.38), 0.36)


def _rabbit_head(pen: Pen, scene: Scene, coat: RGB) -> Head:
    light = shade(coat, 0.5)
    eye: RGB = (70, 24, 40)
    if scene.view == "front":
        for s in (-1, 1):
            pen.oval(s * 0.24, -0.6, 0.14, 0.42, coat, turn=s * 10)
            pen.oval(s * 0.24, -0.58, 0.07, 0.32, PINK, turn=s * 10)
        pen.oval(0.0, 0.04, 0.46, 0.42, coat)
        for s in (-1, 1):
            pen.oval(s * 0.16, 0.24, 0.2, 0.16, light)
        pen.shape([(-0.06, 0.36), (0.06, 0.36), (0.06, 0.5), (-0.06, 0.5)], (252, 252, 252))
        pen.oval(0.0, 0.14, 0.08, 0.06, PINK)
        eyes = [(-0.25, -0.06), (0.25, -0.06)]
        _eyes(pen, eyes, eye, INK, 0.1)
        return Head(pen, eyes, 0.18, (0.0, -0.34), 0.36)
    pen.oval(-0.2, -0.58, 0.14, 0.44, coat, turn=-14)
    pen.oval(-0.19, -0.56, 0.07, 0.33, PINK, turn=-14)
    pen.oval(0.02, 0.04, 0.46, 0.4, coat)
    pen.oval(0.32, 0.18, 0.22, 0.18, light)
    pen.oval(0.52, 0.1, 0.07, 0.06, PINK)
    pen.shape([(0.36, 0.32), (0.46, 0.3), (0.46, 0.44), (0.37, 0.44)], (252, 252, 252))
    eyes = [(0.18, -0.06)]
    _eyes(pen, eyes, eye, INK, 0.11)
    return Head(pen, eyes, 0.18, (0.08, -0.34), 0.34)


def _small(pen: Pen, scene: Scene) -> Head:
    coat = COATS[scene.coat]
    if scene.kind == "cat":
        _tail(pen, scene, True, 0.13, coat, contrast(coat, 0.3))
    elif scene.kind == "dog":
        _tail(pen, scene, False, 0.17, coat, coat)
    elif scene.kind == "fox":
        _tail(pen, scene, True, 0.28, coat, shade(coat, 0.72))
    else:
        u, v = (0.46, 0.8) if scene.pose == "alert" else (0.9, 0.62)
        pen.oval(u, v, 0.17, 0.16, shade(coat, 0.6))
    draw = {"cat": _cat_head, "dog": _dog_head, "fox": _fox_head, "rabbit": _rabbit_head}[scene.kind]
    return draw(_small_body(pen, scene, coat), scene, coat)


# ----------------------------------------------------------------------------------------- large animals


@dataclass(frozen=True)
class _Hide:
    """What a horse and a zebra differ in."""

    coat: RGB
    mane: RGB
    muzzle: RGB
    hoof: RGB
    stripe: RGB | None


def _hide(scene: Scene) -> _Hide:
    if scene.kind == "zebra":
        return _Hide((244, 242, 236), INK, (70, 64, 66), INK, INK)
    coat = COATS[scene.coat]
    return _Hide(coat, contrast(coat, 0.55), shade(coat, 0.4), contrast(coat, 0.7), None)


def _large(pen: Pen, scene: Scene) -> Head:
    hide = _hide(scene)
    far = contrast(hide.coat, 0.2)
    pen.line(curve((-0.6, 0.0), (-0.98, 0.1), (-0.86, 0.6)), 0.15, hide.mane)
    for u, colour in ((-0.34, far), (0.36, far), (-0.54, hide.coat), (0.2, hide.coat)):
        pen.line([(u, 0.2), (u, 0.84)], 0.16, colour)
        pen.line([(u, 0.85), (u, 0.92)], 0.17, hide.hoof)
        if hide.stripe:
            for v in (0.44, 0.6, 0.76):
                pen.line([(u - 0.06, v), (u + 0.06, v)], 0.06, hide.stripe)
    pen.oval(-0.12, 0.14, 0.58, 0.34, hide.coat)
    up = scene.pose == "alert"
    neck = [(0.06, 0.0), (0.28, -0.72), (0.64, -0.66), (0.48, 0.28)] if up else [
        (0.1, -0.12), (0.66, 0.06), (0.86, 0.4), (0.6, 0.62), (0.2, 0.34)
    ]  # fmt: skip
    pen.shape(neck, hide.coat)
    if hide.stripe:
        for u in (-0.54, -0.36, -0.18, 0.0):
            reach = 0.3 * math.sqrt(max(0.0, 1 - ((u + 0.12) / 0.58) ** 2))
            pen.line(curve((u - 0.03, 0.14 - reach), (u + 0.06, 0.14), (u - 0.03, 0.14 + reach)), 0.08, hide.stripe)
        across = (
            [((0.23 - 0.1 * (v + 0.5), v), (0.55, v + 0.1)) for v in (-0.5, -0.28, -0.06)]
            if up
            else [((0.24, -0.06), (0.3, 0.36)), ((0.42, 0.0), (0.44, 0.48)), ((0.6, 0.06), (0.56, 0.56))]
        )
        for a, b in across:
            pen.line([a, b], 0.08, hide.stripe)
    mane = curve((0.36, -0.9), (0.12, -0.56), (0.04, 0.0)) if up else curve((0.84, 0.24), (0.56, -0.1), (0.08, -0.16))
    pen.line(mane, 0.16, hide.mane)
    if scene.view == "front":
        return _front_head(pen.at(0.48, -0.5) if up else pen.at(0.72, 0.44), hide)
    return _side_head(pen.at(0.46, -0.66, 34) if up else pen.at(0.7, 0.36, 74), hide)


def _side_head(pen: Pen, hide: _Hide) -> Head:
    """A long head in profile; u runs from the poll to the muzzle."""
    for u in (-0.16, 0.02):
        pen.shape([(u - 0.06, -0.1), (u + 0.02, -0.42), (u + 0.12, -0.1)], hide.coat)
    pen.oval(0.04, 0.02, 0.24, 0.2, hide.coat)
    pen.shape([(0.0, -0.17), (0.5, -0.09), (0.54, 0.14), (0.02, 0.21)], hide.coat)
    pen.oval(0.52, 0.03, 0.14, 0.135, hide.muzzle)
    if hide.stripe:
        for u in (0.22, 0.36):
            pen.line([(u, -0.12), (u - 0.03, 0.13)], 0.065, hide.stripe)
    pen.oval(0.58, -0.02, 0.035, 0.035, INK)
    eyes = [(0.08, -0.03)]
    _eyes(pen, eyes, (250, 250, 250), INK, 0.085)
    return Head(pen, eyes, 0.16, (-0.06, -0.18), 0.26)


def _front_head(pen: Pen, hide: _Hide) -> Head:
    """A long head that faces us."""
    for s in (-1, 1):
        pen.shape([(s * 0.26, -0.16), (s * 0.24, -0.52), (s * 0.06, -0.24)], hide.coat)
    pen.oval(0.0, 0.04, 0.27, 0.36, hide.coat)
    pen.oval(0.0, -0.22, 0.12, 0.12, hide.mane)
    if hide.stripe:
        for s in (-1, 1):
            pen.line([(s * 0.08, 0.06), (s * 0.24, -0.0)], 0.06, hide.stripe)
            pen.line([(s * 0.07, 0.2), (s * 0.22, 0.14)], 0.06, hide.stripe)
    pen.oval(0.0, 0.34, 0.24, 0.17, hide.muzzle)
    for s in (-1, 1):
        pen.oval(s * 0.1, 0.34, 0.04, 0.05, INK)
    eyes = [(-0.17, -0.1), (0.17, -0.1)]
    _eyes(pen, eyes, (250, 250, 250), INK, 0.085)
    return Head(pen, eyes, 0.15, (0.0, -0.28), 0.3)


# ------------------------------------------------------------------------------------------ what it wears


def _glasses(head: Head) -> None:
    frame: RGB = (222, 36, 60)
    for u, v in head.eyes:
        rim = [(u + head.lens * math.cos(t), v + head.lens * math.sin(t)) for t in [*_RIM, *_RIM[:2]]]
        head.pen.line(rim, 0.085, frame)
    (first, height), last = head.eyes[0], head.eyes[-1][0]
    if len(head.eyes) == 2:
        head.pen.line([(first + head.lens, height), (last - head.lens, height)], 0.085, frame)
    head.pen.line([(first - head.lens, height), (first - head.lens - 0.16, height - 0.04)], 0.085, frame)
    if len(head.eyes) == 2:
        head.pen.line([(last + head.lens, height), (last + head.lens + 0.16, height - 0.04)], 0.085, frame)


def _hat(head: Head) -> None:
    felt: RGB = (66, 60, 170)
    (u, v), r = head.top, head.brim
    pen = head.pen
    pen.shape([(u - 0.6 * r, v), (u - 0.5 * r, v - 0.9 * r), (u + 0.5 * r, v - 0.9 * r), (u + 0.6 * r, v)], felt)
    pen.shape(
        [(u - 0.58 * r, v - 0.3 * r), (u + 0.58 * r, v - 0.3 * r), (u + 0.6 * r, v), (u - 0.6 * r, v)], (250, 206, 70)
    )
    pen.oval(u, v, r, 0.2 * r, felt)


# ----------------------------------------------------------------------------------------------- backdrop

_FLAKES = [(0.06, 0.1), (0.2, 0.28), (0.3, 0.08), (0.42, 0.2), (0.56, 0.07), (0.66, 0.27), (0.74, 0.1), (0.94, 0.26),
           (0.1, 0.42), (0.93, 0.45)]  # fmt: skip
_FLOWERS = [(0.08, 0.3), (0.2, 0.72), (0.34, 0.42), (0.64, 0.38), (0.8, 0.7), (0.92, 0.32), (0.06, 0.86), (0.94, 0.9)]
_DRIFTS = [(0.02, 0.16, 0.2, 0.12), (0.98, 0.2, 0.24, 0.14), (0.12, 0.92, 0.26, 0.16), (0.86, 0.96, 0.24, 0.15)]


def _backdrop(scene: Scene, side: int, style: Style) -> Image.Image:
    fill = style.fill
    top, low = (np.array(fill(c), np.float32) for c in SKIES[scene.sky])
    horizon = round(scene.horizon * side)
    rows = np.empty((side, 1, 3), np.float32)
    rows[:horizon, 0] = top + (low - top) * np.linspace(0, 1, horizon)[:, None]
    ground = np.array(fill(GROUNDS[scene.ground]), np.float32)
    rows[horizon:, 0] = ground * np.linspace(0.9, 1.06, side - horizon)[:, None]
    pixels = np.broadcast_to(rows, (side, side, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    deep = side - horizon
    width = round(style.outline * side)

    def oval(x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        x = 1 - x if scene.flip else x
        box = [side * (x - rx), side * (y - ry), side * (x + rx), side * (y + ry)]
        drawn = width if rx > 0.05 else 0  # what is smaller would be nothing but outline
        draw.ellipse(box, fill=fill(colour), outline=style.edge(colour) if drawn else None, width=max(1, drawn))

    if scene.sky == "night":
        oval(0.84, 0.14, 0.08, 0.08, (250, 244, 206))
    elif scene.sky == "sunset":
        oval(0.84, 0.24, 0.1, 0.1, (255, 236, 160))
    elif scene.sky == "blue sky":
        oval(0.84, 0.16, 0.12, 0.05, (250, 252, 255))
        oval(0.77, 0.13, 0.07, 0.06, (250, 252, 255))
    elif scene.sky == "wall":
        draw.rectangle([0, horizon - side * 0.05, side, horizon], fill=fill((236, 240, 232)))
    seam = fill(shade(GROUNDS[scene.ground], -0.25))
    if scene.ground in ("wood", "tiles"):
        for v in (0.3, 0.64):
            draw.line([0, horizon + deep * v, side, horizon + deep * v], fill=seam, width=side // 48)
    if scene.ground == "tiles":
        for x in (-0.4, -0.12, 0.12, 0.4):
            draw.line([side * (0.5 + x * 0.9), horizon, side * (0.5 + x * 1.7), side], fill=seam, width=side // 48)
    if width:
        draw.line([0, horizon, side, horizon], fill=style.edge(GROUNDS[scene.ground]), width=width)
    for x, v, rx, rv in _DRIFTS if scene.season == "winter" else ():
        oval(x, (horizon + deep * v) / side, rx, rv * deep / side, SNOW)
    for x, v in _FLAKES if scene.season == "winter" else ():
        oval(x, v, 0.017, 0.017, SNOW)
    for i, (x, v) in enumerate(_FLOWERS if scene.season == "summer" else ()):
        y = (horizon + deep * v) / side
        oval(x, y, 0.03, 0.03, ((250, 120, 170), (252, 250, 240), (150, 90, 210))[i % 3])
        oval(x, y, 0.013, 0.013, (252, 210, 60))
    return picture


def _shadow(picture: Image.Image, scene: Scene, side: int, style: Style) -> None:
    x, y, rx, ry = scene.x, scene.y + 0.47 * scene.size, 0.42 * scene.size, 0.06 * scene.size
    box = [side * (x - rx), side * (y - ry), side * (x + rx), side * (y + ry)]
    ImageDraw.Draw(picture).ellipse(box, fill=style.fill(shade(GROUNDS[scene.ground], -0.3)))


@lru_cache(maxsize=8)
def _strokes(size: int) -> NDArray[np.float32]:
    """The broad slanting strokes of oil pastel, the same in every picture of a size: (size, size, 1), around 1."""
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
    """The scene's animal as white lines on black, (size, size, 3) uint8: what somebody would sketch of it."""
    side = size * SUPERSAMPLE
    picture = Image.new("RGB", (side, side))
    _draw(scene, picture, LINES)
    return np.asarray(picture.reduce(SUPERSAMPLE))


def _draw(scene: Scene, picture: Image.Image, style: Style) -> Image.Image:
    """Draw the animal on a picture; returns what it touches, white on black."""
    side = picture.width
    mask = Image.new("L", (side, side))
    half, sign = scene.size * side / 2, -1 if scene.flip else 1
    start = (sign * half, 0.0, scene.x * side, 0.0, half, scene.y * side)
    pen = Pen(ImageDraw.Draw(picture), ImageDraw.Draw(mask), style, side, start).at(0, 0, scene.tilt)
    head = (_small if scene.kind in SMALL else _large)(pen, scene)
    if scene.glasses:
        _glasses(head)
    if scene.hat:
        _hat(head)
    return mask


def backdrop(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The scene without its animal, (size, size, 3) uint8: equal to `render`'s picture outside its mask."""
    return _pixels(_stage(scene, size * SUPERSAMPLE, STYLES[scene.style]), scene, size)


def _stage(scene: Scene, side: int, style: Style) -> Image.Image:
    picture = _backdrop(scene, side, style)
    _shadow(picture, scene, side, style)
    return picture


def _pixels(picture: Image.Image, scene: Scene, size: int) -> NDArray[np.uint8]:
    pixels = np.asarray(picture.reduce(SUPERSAMPLE))
    if scene.style == "oil pastel":
        pixels = (pixels * _strokes(size)).clip(0, 255).round().astype(np.uint8)
    return pixels
