"""A pen that draws shapes and lines in a style, on a picture and on a mask at once."""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from PIL import ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]
Points = list[Point]


INK: RGB = (32, 28, 32)
PINK: RGB = (236, 150, 150)

PAPER: RGB = (250, 248, 242)
PENCIL: RGB = (92, 90, 96)
RIM = [2 * math.pi * i / 26 for i in range(26)]


def shade(colour: RGB, amount: float) -> RGB:
    """Lighter for a positive amount, darker for a negative one (-1 … 1)."""
    return mix(colour, (255, 255, 255) if amount > 0 else (0, 0, 0), abs(amount))


def contrast(colour: RGB, amount: float) -> RGB:
    """A visible neighbour of a colour: darker for a light one, lighter for a dark one."""
    return shade(colour, -amount if sum(colour) > 240 else amount)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


class Style(NamedTuple):
    """How a style turns a shape's colour into its fill and its outline. `outline` is the outline's width as a share of
    the picture's side. In a `hollow` style thin strokes are outlines too."""

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
"""White lines on black, as ControlNets that follow outlines were trained on."""


@dataclass(frozen=True)
class Pen:
    """Draws shapes, given in the pen's own coordinates (u to the right, v down), on a picture and a mask."""

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
        rim = [(ru * math.cos(t), rv * math.sin(t)) for t in RIM]
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
