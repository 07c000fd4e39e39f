"""Glasses and hats, for any animal's head."""

import math

from p2pz_ray.mini.animal import Head
from p2pz_ray.mini.pen import RGB, RIM


def glasses(head: Head) -> None:
    frame: RGB = (222, 36, 60)
    for u, v in head.eyes:
        rim = [(u + head.lens * math.cos(t), v + head.lens * math.sin(t)) for t in [*RIM, *RIM[:2]]]
        head.pen.line(rim, 0.085, frame)
    (first, height), last = head.eyes[0], head.eyes[-1][0]
    if len(head.eyes) == 2:
        head.pen.line([(first + head.lens, height), (last - head.lens, height)], 0.085, frame)
    head.pen.line([(first - head.lens, height), (first - head.lens - 0.16, height - 0.04)], 0.085, frame)
    if len(head.eyes) == 2:
        head.pen.line([(last + head.lens, height), (last + head.lens + 0.16, height - 0.04)], 0.085, frame)


def hat(head: Head) -> None:
    felt: RGB = (66, 60, 170)
    (u, v), r = head.top, head.brim
    pen = head.pen
    pen.shape([(u - 0.6 * r, v), (u - 0.5 * r, v - 0.9 * r), (u + 0.5 * r, v - 0.9 * r), (u + 0.6 * r, v)], felt)
    pen.shape(
        [(u - 0.58 * r, v - 0.3 * r), (u + 0.58 * r, v - 0.3 * r), (u + 0.6 * r, v), (u - 0.6 * r, v)], (250, 206, 70)
    )
    pen.oval(u, v, r, 0.2 * r, felt)
