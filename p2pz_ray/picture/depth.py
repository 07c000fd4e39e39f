"""Pictures with more than 8 bits per sample, which often use fewer bits than their file has room for."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from p2pz_ray.errors import ImageError

_DEPTHS = (8, 10, 12, 14, 16)
_MAX_SAMPLE_VALUE = (281, 341)  # TIFF's MaxSampleValue and SMaxSampleValue
_SWAPPED = {"L": "B", "B": "L", "N": "B"}  # the other half of a 16-bit sample, as Pillow's unpackers name it


def one_channel(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Integers of up to 16 bits, or floats of 0…1 or 0…255, as (H, W) uint8; and what was assumed about the scale.

    Pillow's own conversion clips them at 255, which turns most such images white. Raises `ImageError` for values of an
    unknown scale.
    """
    values = np.asarray(image)
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 255):  # also when there is a NaN
            raise ImageError("Its floating-point pixels reach beyond 0 to 255: save it with 8 or 16 bits.")
        return np.round(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8), None
    if not (values.min() >= 0 and values.max() <= 65535):
        raise ImageError("Its integer pixels reach beyond 16 bits: save it with 8 or 16 bits.")
    return scaled(values, image)


def deep_colours(data: bytes, image: Image.Image, formats: tuple[str, ...]) -> tuple[Image.Image, str | None] | None:
    """A 16-bit colour picture that uses fewer bits, at its true brightness, and what was assumed. None for any other.

    Pillow keeps the upper 8 bits of such samples; a 12-bit picture uses four of them and an 8-bit one none. Its
    unpackers for the other byte order read the lower 8 bits of the same file.
    """
    if image.mode not in ("RGB", "RGBA") or image.format not in ("PNG", "TIFF"):
        return None
    upper = np.asarray(image)
    if upper[..., :3].max() >= 64:
        return None
    with Image.open(io.BytesIO(data), formats=formats) as again:
        if not _swap(again):
            return None
        again.load()
        lower = np.asarray(again)
    values = upper.astype(np.uint16) << 8 | lower
    colours, said = scaled(values[..., :3], image)
    return Image.fromarray(np.concatenate([colours, upper[..., 3:]], axis=2)), said


def scaled(values: np.ndarray, image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Integers in 0 … 65535 as uint8, scaled by the maximum in the file's tag, else by the smallest of 8, 10, 12, 14 or
    16 bits that holds them all; and a sentence on this unless it is 16 bits."""
    high = int(values.max())
    tagged = _tagged(image)
    if tagged and high <= tagged:
        largest, said = tagged, f"It is scaled by its tag, from 0 … {tagged} to 0 … 255."
    else:
        bits = next(bits for bits in _DEPTHS if high < 1 << bits)
        largest, said = (1 << bits) - 1, f"Its 16-bit samples reach {high} and are taken for {bits} bits."
    eight = np.round(values.astype(np.float32) * np.float32(255 / largest)).astype(np.uint8)
    return eight, None if largest == 65535 or not high else said


def _tagged(image: Image.Image) -> int | None:
    tags: Any = getattr(image, "tag_v2", {})
    for tag in _MAX_SAMPLE_VALUE:
        value = tags.get(tag)
        value = max(value) if isinstance(value, tuple) and value else value
        if isinstance(value, int) and 0 < value <= 65535:
            return value
    return None


def _swap(image: Image.Image) -> bool:
    """Make an opened, unread 16-bit picture return its lower bytes; False if it can't."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        mode, separator, order = str(arguments[0]).partition(";16")
        if not separator or order not in _SWAPPED:
            return False
        swapped = (f"{mode};16{_SWAPPED[order]}", *arguments[1:])
        tiles.append(tile._replace(args=swapped if isinstance(tile.args, tuple) else swapped[0]))
    image.tile = tiles  # type: ignore[attr-defined]
    return bool(tiles)
