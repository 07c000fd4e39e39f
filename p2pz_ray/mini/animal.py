"""An animal, put together from independent parts: a body for its family and pose, a head for its kind and view."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from p2pz_ray.mini.pen import INK, PINK, RGB, Pen, Point, Points, contrast, curve, shade
from p2pz_ray.mini.scene import Scene

COATS: dict[str, RGB] = {
    "black": (58, 54, 62),
    "white": (244, 242, 236),
    "grey": (142, 146, 156),
    "brown": (128, 80, 44),
    "ginger": (232, 132, 42),
    "cream": (240, 210, 154),
}


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
    """A head that was drawn: where glasses and hats go on it, and their sizes."""

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


def small_animal(pen: Pen, scene: Scene) -> Head:
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


@dataclass(frozen=True)
class _Hide:
    """The colours in which a horse and a zebra differ."""

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


def large_animal(pen: Pen, scene: Scene) -> Head:
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
