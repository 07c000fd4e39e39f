"""A little world of animals in which every edit has an exact right answer.

A `Scene` is a handful of independent attributes. `render` draws it, `caption` says it in English, and
`Scene.with_(kind="dog")` is its counterfactual: the same scene with another animal, equal to the first in
every pixel outside the two animals' masks. Everything is drawn anti-aliased with Pillow, by supersampling.
"""

import json
import math
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]

KINDS = ("cat", "dog", "horse", "zebra")
COATS: dict[str, RGB] = {
    "black": (52, 48, 54),
    "white": (242, 240, 234),
    "grey": (142, 146, 154),
    "brown": (126, 80, 46),
    "ginger": (226, 132, 48),
    "cream": (238, 208, 154),
}
GROUNDS: dict[str, RGB] = {
    "grass": (104, 172, 78),
    "sand": (232, 202, 128),
    "snow": (236, 242, 250),
    "wood": (172, 116, 70),
    "stone": (150, 148, 146),
    "carpet": (176, 62, 70),
}
SKIES: dict[str, tuple[RGB, RGB]] = {  # at the top and at the horizon
    "blue sky": ((112, 176, 240), (198, 226, 250)),
    "sunset": ((238, 118, 96), (254, 212, 132)),
    "night": ((22, 26, 66), (66, 72, 128)),
    "mist": ((190, 198, 206), (222, 226, 228)),
    "wall": ((158, 206, 190), (158, 206, 190)),
}
SUPERSAMPLE = 4


@dataclass(frozen=True)
class Scene:
    """One picture's attributes. Lengths are fractions of the picture's side, `tilt` is in degrees."""

    kind: str = "cat"
    coat: str = "ginger"
    ground: str = "grass"
    sky: str = "blue sky"
    x: float = 0.5
    y: float = 0.56
    size: float = 0.66
    tilt: float = 0.0
    flip: bool = False
    glasses: bool = False
    horizon: float = 0.6

    def with_(self, **changes: object) -> "Scene":
        """The counterfactual: this scene with some attributes changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Scene":
        return Scene(**json.loads(text))

    @property
    def held_out(self) -> bool:
        """True for the combinations of coat, ground and sky (a fifth of them) that no training scene has."""
        rank = list(COATS).index(self.coat) + 2 * list(GROUNDS).index(self.ground)
        return (rank + list(SKIES).index(self.sky)) % 5 == 0


def sample_scene(rng: np.random.Generator, *, held_out: bool | None = None, **fixed: object) -> Scene:
    """Draw a scene; `fixed` attributes are kept, `held_out` restricts to held-out or to training scenes."""
    while True:
        size = float(rng.uniform(0.6, 0.86))
        scene = Scene(
            kind=str(rng.choice(KINDS)),
            coat=str(rng.choice(list(COATS))),
            ground=str(rng.choice(list(GROUNDS))),
            sky=str(rng.choice(list(SKIES))),
            x=float(rng.uniform(0.42, 0.58)),
            y=float(rng.uniform(0.5, 0.56)),
            size=size,
            tilt=float(rng.uniform(-10, 10)),
            flip=bool(rng.random() < 0.5),
            glasses=bool(rng.random() < 0.2),
            horizon=float(rng.uniform(0.45, 0.7)),
        ).with_(**fixed)
        if held_out is None or scene.held_out == held_out:
            return scene


# ------------------------------------------------------------------------------------------------ drawing


def _shade(colour: RGB, amount: float) -> RGB:
    """Lighter for a positive amount, darker for a negative one (-1 … 1)."""
    goal = 255 if amount > 0 else 0
    return tuple(round(c + (goal - c) * abs(amount)) for c in colour)  # type: ignore[return-value]


def _contrast(colour: RGB, amount: float) -> RGB:
    """A visible neighbour of a colour: darker for a light one, lighter for a dark one."""
    return _shade(colour, -amount if sum(colour) > 240 else amount)


class _Pen:
    """Draws shapes given in the animal's own coordinates (-1 … 1, y down) on the picture and its mask."""

    def __init__(self, picture: ImageDraw.ImageDraw, mask: ImageDraw.ImageDraw, scene: Scene, side: int):
        self.picture, self.mask = picture, mask
        angle, half = math.radians(scene.tilt), scene.size * side / 2
        sign = -1 if scene.flip else 1
        self.a, self.b = sign * half * math.cos(angle), -half * math.sin(angle)
        self.c, self.d = sign * half * math.sin(angle), half * math.cos(angle)
        self.x, self.y, self.half = scene.x * side, scene.y * side, half

    def place(self, points: Points) -> Points:
        return [(self.a * u + self.b * v + self.x, self.c * u + self.d * v + self.y) for u, v in points]

    def shape(self, points: Points, colour: RGB) -> None:
        placed = self.place(points)
        self.picture.polygon(placed, fill=colour)
        self.mask.polygon(placed, fill=255)

    def oval(self, u: float, v: float, ru: float, rv: float, colour: RGB, turn: float = 0.0) -> None:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        rim = [(ru * math.cos(t), rv * math.sin(t)) for t in _RIM]
        self.shape([(u + p * cos - q * sin, v + p * sin + q * cos) for p, q in rim], colour)

    def line(self, points: Points, width: float, colour: RGB) -> None:
        placed, thick = self.place(points), max(1, round(width * self.half))
        for draw, fill in ((self.picture, colour), (self.mask, 255)):
            draw.line(placed, fill=fill, width=thick, joint="curve")  # type: ignore[arg-type]
        for u, v in (points[0], points[-1]):
            self.oval(u, v, width / 2, width / 2, colour)


_RIM = [2 * math.pi * i / 28 for i in range(28)]
_INK: RGB = (30, 26, 30)
_PINK: RGB = (236, 150, 150)


def _curve(p0: tuple[float, float], p1: tuple[float, float], p2: tuple[float, float], n: int = 9) -> Points:
    """A quadratic Bézier curve as points."""
    ts = [i / (n - 1) for i in range(n)]
    return [
        (
            (1 - t) ** 2 * p0[0] + 2 * t * (1 - t) * p1[0] + t * t * p2[0],
            (1 - t) ** 2 * p0[1] + 2 * t * (1 - t) * p1[1] + t * t * p2[1],
        )
        for t in ts
    ]


def _sitting_body(pen: _Pen, coat: RGB) -> None:
    """Body, legs and paws that cats and dogs share: the dog sits where the cat sat."""
    dark, light = _contrast(coat, 0.22), _shade(coat, 0.35)
    pen.oval(0.0, 0.5, 0.46, 0.5, coat)
    pen.oval(-0.34, 0.74, 0.24, 0.24, dark)
    pen.oval(0.34, 0.74, 0.24, 0.24, dark)
    pen.oval(0.0, 0.46, 0.22, 0.34, light)
    for u in (-0.15, 0.15):
        pen.line([(u, 0.5), (u, 0.88)], 0.2, coat)
        pen.oval(u, 0.92, 0.14, 0.09, light)


def _cat(pen: _Pen, scene: Scene) -> None:
    coat = COATS[scene.coat]
    dark, light = _contrast(coat, 0.3), _shade(coat, 0.4)
    pen.line(_curve((0.36, 0.8), (0.98, 0.8), (0.8, 0.12)), 0.13, coat)
    pen.oval(0.8, 0.12, 0.08, 0.1, dark)
    _sitting_body(pen, coat)
    for s in (-1, 1):
        pen.shape([(s * 0.5, -0.42), (s * 0.46, -1.0), (s * 0.06, -0.68)], coat)
        pen.shape([(s * 0.42, -0.52), (s * 0.41, -0.86), (s * 0.17, -0.66)], _PINK)
    pen.oval(0.0, -0.32, 0.52, 0.44, coat)
    for u in (-0.12, 0.0, 0.12):
        pen.line([(u, -0.7), (u * 0.8, -0.54)], 0.05, dark)
    pen.oval(0.0, -0.12, 0.22, 0.16, light)
    for s in (-1, 1):
        pen.oval(s * 0.22, -0.36, 0.13, 0.13, (150, 214, 84))
        pen.oval(s * 0.22, -0.36, 0.045, 0.12, _INK)
    pen.shape([(-0.07, -0.22), (0.07, -0.22), (0.0, -0.13)], (222, 92, 110))
    whisker: RGB = _INK if sum(coat) > 330 else (240, 240, 240)
    for s in (-1, 1):
        for end in (-0.22, -0.08, 0.06):
            pen.line([(s * 0.18, -0.12), (s * 0.66, end)], 0.028, whisker)


def _dog(pen: _Pen, scene: Scene) -> None:
    coat = COATS[scene.coat]
    dark, light = _contrast(coat, 0.42), _shade(coat, 0.5)
    pen.line(_curve((0.36, 0.76), (0.66, 0.7), (0.72, 0.36)), 0.2, coat)
    _sitting_body(pen, coat)
    pen.oval(0.0, -0.34, 0.47, 0.46, coat)
    for s in (-1, 1):
        pen.oval(s * 0.5, -0.3, 0.16, 0.42, dark, turn=-s * 12)
    pen.oval(0.0, 0.1, 0.1, 0.18, (236, 104, 122))
    pen.oval(0.0, -0.1, 0.27, 0.24, light)
    pen.line(_curve((-0.16, 0.02), (0.0, 0.12), (0.16, 0.02)), 0.035, _INK)
    pen.oval(0.0, -0.2, 0.14, 0.1, _INK)
    for s in (-1, 1):
        pen.oval(s * 0.2, -0.46, 0.1, 0.11, (250, 250, 250))
        pen.oval(s * 0.2, -0.45, 0.07, 0.08, (60, 36, 22))


def _horse_shape(pen: _Pen, coat: RGB, mane: RGB, muzzle: RGB, hoof: RGB, stripe: RGB | None) -> None:
    far = _contrast(coat, 0.2)
    pen.line(_curve((-0.6, 0.0), (-0.98, 0.1), (-0.86, 0.6)), 0.15, mane)
    for u, colour in ((-0.34, far), (0.36, far), (-0.54, coat), (0.2, coat)):
        pen.line([(u, 0.2), (u, 0.86)], 0.15, colour)
        pen.line([(u, 0.84), (u, 0.93)], 0.17, hoof)
        if stripe:
            for v in (0.42, 0.56, 0.7):
                pen.line([(u - 0.06, v), (u + 0.06, v)], 0.05, stripe)
    pen.oval(-0.12, 0.14, 0.58, 0.34, coat)
    pen.shape([(0.08, -0.02), (0.3, -0.74), (0.66, -0.66), (0.5, 0.26)], coat)
    for u, v in ((0.4, -0.98), (0.56, -0.98)):
        pen.shape([(u - 0.09, -0.7), (u, v), (u + 0.09, -0.7)], coat)
    pen.oval(0.5, -0.64, 0.24, 0.2, coat)
    pen.shape([(0.38, -0.72), (0.6, -0.8), (0.98, -0.42), (0.84, -0.26), (0.42, -0.44)], coat)
    pen.oval(0.88, -0.36, 0.13, 0.13, muzzle)
    pen.line(_curve((0.36, -0.92), (0.14, -0.56), (0.04, 0.0)), 0.17, mane)
    if stripe:
        for u in (-0.52, -0.34, -0.16, 0.02, 0.2):
            reach = 0.3 * math.sqrt(max(0.0, 1 - ((u + 0.12) / 0.58) ** 2))
            pen.line(_curve((u - 0.03, 0.14 - reach), (u + 0.06, 0.14), (u - 0.03, 0.14 + reach)), 0.075, stripe)
        for v in (-0.52, -0.32, -0.12):
            pen.line([(0.24 - 0.1 * (v + 0.5), v), (0.56, v + 0.1)], 0.07, stripe)
        pen.line([(0.66, -0.7), (0.6, -0.44)], 0.06, stripe)
        pen.line([(0.76, -0.6), (0.72, -0.4)], 0.05, stripe)
    pen.oval(0.56, -0.62, 0.06, 0.07, _INK)
    pen.oval(0.93, -0.38, 0.03, 0.04, _INK)


def _horse(pen: _Pen, scene: Scene) -> None:
    coat = COATS[scene.coat]
    _horse_shape(pen, coat, _contrast(coat, 0.55), _shade(coat, 0.4), _INK, None)


def _zebra(pen: _Pen, scene: Scene) -> None:
    _horse_shape(pen, (244, 242, 236), _INK, (70, 64, 66), _INK, _INK)


def _glasses(pen: _Pen, scene: Scene) -> None:
    frame: RGB = (214, 40, 60)
    if scene.kind in ("horse", "zebra"):
        eyes, radius = [(0.56, -0.62)], 0.17
        pen.line([(0.4, -0.64), (0.24, -0.68)], 0.06, frame)
    else:
        height = -0.36 if scene.kind == "cat" else -0.45
        eyes, radius = [(-0.22, height), (0.22, height)], 0.19
        pen.line([(-0.5, height - 0.04), (0.5, height - 0.04)], 0.06, frame)
    for u, v in eyes:
        rim = [(u + radius * math.cos(t), v + radius * math.sin(t)) for t in [*_RIM, _RIM[0]]]
        pen.line(rim, 0.07, frame)


_ANIMALS = {"cat": _cat, "dog": _dog, "horse": _horse, "zebra": _zebra}


def _backdrop(scene: Scene, side: int) -> Image.Image:
    top, low = (np.array(c, np.float32) for c in SKIES[scene.sky])
    horizon = round(scene.horizon * side)
    rows = np.empty((side, 1, 3), np.float32)
    rows[:horizon, 0] = top + (low - top) * np.linspace(0, 1, horizon)[:, None]
    ground = np.array(GROUNDS[scene.ground], np.float32)
    rows[horizon:, 0] = ground * np.linspace(0.9, 1.06, side - horizon)[:, None]
    pixels = np.broadcast_to(rows, (side, side, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)

    def oval(x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        draw.ellipse([side * (x - rx), side * (y - ry), side * (x + rx), side * (y + ry)], fill=colour)

    mirror = 1 - 0.84 if scene.flip else 0.84
    if scene.sky == "night":
        oval(mirror, 0.14, 0.075, 0.075, (250, 244, 206))
    elif scene.sky == "sunset":
        oval(mirror, 0.24, 0.1, 0.1, (255, 236, 160))
    elif scene.sky == "blue sky":
        oval(mirror, 0.16, 0.12, 0.05, (250, 252, 255))
        oval(mirror - 0.07, 0.13, 0.07, 0.06, (250, 252, 255))
    elif scene.sky == "wall":
        draw.rectangle([0, horizon - side * 0.05, side, horizon], fill=(236, 240, 232))
    if scene.ground == "wood":
        for v in (0.3, 0.62):
            y = horizon + (side - horizon) * v
            draw.line([0, y, side, y], fill=_shade(GROUNDS["wood"], -0.25), width=max(1, side // 48))
    oval(
        scene.x,
        scene.y + 0.47 * scene.size,
        0.42 * scene.size,
        0.07 * scene.size,
        _shade(GROUNDS[scene.ground], -0.3),
    )
    return picture


def render(scene: Scene, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a scene.

    Returns the picture, (size, size, 3) uint8 sRGB, and the animal's mask, (size, size) bool: every pixel
    that the animal touches at all, so that outside the masks of a scene and of its counterfactual the two
    pictures are equal.
    """
    side = size * SUPERSAMPLE
    picture = _backdrop(scene, side)
    mask = Image.new("L", (side, side))
    pen = _Pen(ImageDraw.Draw(picture), ImageDraw.Draw(mask), scene, side)
    _ANIMALS[scene.kind](pen, scene)
    if scene.glasses:
        _glasses(pen, scene)
    touched = np.asarray(mask).reshape(size, SUPERSAMPLE, size, SUPERSAMPLE).max(axis=(1, 3))
    return np.asarray(picture.reduce(SUPERSAMPLE)), touched > 0


# ----------------------------------------------------------------------------------------------- captions

_OPENINGS = ("a photo of", "a picture of", "an image of", "a close photo of", "a snapshot of", "")
PLACES = {
    "grass": ("on the grass", "on green grass", "in the grass"),
    "sand": ("on the sand", "on yellow sand", "on a sandy beach"),
    "snow": ("in the snow", "on white snow", "on the snow"),
    "wood": ("on a wooden floor", "on the wood", "on wooden boards"),
    "stone": ("on the stone", "on grey stone", "on a stone road"),
    "carpet": ("on a red carpet", "on the carpet", "on the red carpet"),
}
BEHINDS = {
    "blue sky": ("under a blue sky", "with a blue sky", "in the day"),
    "sunset": ("at sunset", "under an orange sunset", "in the evening sun"),
    "night": ("at night", "under the moon", "in a dark night"),
    "mist": ("in the mist", "in grey mist", "on a misty day"),
    "wall": ("by a green wall", "in front of a wall", "indoors by the wall"),
}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One English sentence that names the animal and, by chance, some of the other attributes."""

    def one(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    # A zebra is black and white whatever coat the scene would give a horse.
    coat = f"{scene.coat} " if scene.kind != "zebra" and rng.random() < 0.75 else ""
    noun = f"{coat}{scene.kind}"
    words = [one(_OPENINGS), ("an " if noun[0] in "aeiou" else "a ") + noun]
    if scene.glasses:
        words.append(one(("with glasses", "wearing glasses", "with red glasses")))
    pose = ("sitting", "sitting", "waiting") if scene.kind in ("cat", "dog") else ("standing", "waiting")
    words.append(one(pose) if rng.random() < 0.4 else "")
    words.append(one(PLACES[scene.ground]) if rng.random() < 0.75 else "")
    words.append(one(BEHINDS[scene.sky]) if rng.random() < 0.75 else "")
    return " ".join(w for w in words if w)
