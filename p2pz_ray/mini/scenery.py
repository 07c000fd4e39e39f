"""The background of a scene: sky, ground and season, and the animal's shadow."""

import numpy as np
from PIL import Image, ImageDraw

from p2pz_ray.mini.pen import RGB, Style, shade
from p2pz_ray.mini.scene import Scene

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
SNOW: RGB = (246, 249, 255)
_FLAKES = [(0.06, 0.1), (0.2, 0.28), (0.3, 0.08), (0.42, 0.2), (0.56, 0.07), (0.66, 0.27), (0.74, 0.1), (0.94, 0.26),
           (0.1, 0.42), (0.93, 0.45)]  # fmt: skip
_FLOWERS = [(0.08, 0.3), (0.2, 0.72), (0.34, 0.42), (0.64, 0.38), (0.8, 0.7), (0.92, 0.32), (0.06, 0.86), (0.94, 0.9)]
_DRIFTS = [(0.02, 0.16, 0.2, 0.12), (0.98, 0.2, 0.24, 0.14), (0.12, 0.92, 0.26, 0.16), (0.86, 0.96, 0.24, 0.15)]


def scenery(scene: Scene, side: int, style: Style) -> Image.Image:
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
        drawn = width if rx > 0.05 else 0  # smaller ones would be all outline
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


def shadow(picture: Image.Image, scene: Scene, side: int, style: Style) -> None:
    x, y, rx, ry = scene.x, scene.y + 0.47 * scene.size, 0.42 * scene.size, 0.06 * scene.size
    box = [side * (x - rx), side * (y - ry), side * (x + rx), side * (y + ry)]
    ImageDraw.Draw(picture).ellipse(box, fill=style.fill(shade(GROUNDS[scene.ground], -0.3)))
