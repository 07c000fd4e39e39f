"""Between encoded images and pixels: a decoder that any file may be given to, and an encoder."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from p2pz_ray.errors import ConfigError, ImageError, first_line

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is decoded. Pillow knows more, but every decoder is code that strangers' files run through."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112

_QUIET = threading.Lock()


@dataclass(frozen=True)
class DecodePolicy:
    """What becomes of an image on its way to the model, and what is refused.

    size: (height, width) in pixels of every decoded image.
    fit: "crop" scales until the image covers `size` and cuts what overhangs, equally on both sides; "pad" scales
        until it fits inside and fills the rest with `background`; "stretch" scales each side by itself.
    max_bytes: largest encoded image, in bytes.
    max_pixels: largest width × height; more is refused before a pixel is decoded.
    min_side: smallest width and height: less holds no picture to translate.
    background: RGB behind transparent pixels and around padded ones.

    Raises `ConfigError` for values that can't be.
    """

    size: tuple[int, int]
    fit: Literal["crop", "pad", "stretch"] = "crop"
    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 8
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.fit not in ("crop", "pad", "stretch"):
            raise ConfigError(f"fit is {self.fit!r}: choose crop, pad or stretch.")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size is {self.size}: give height and width in pixels, both at least 1.")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ConfigError(f"background is {self.background}: give three values from 0 to 255.")


def decode(data: bytes, policy: DecodePolicy) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8 RGB of the policy's size.

    Of animations the first frame; turned upright by its EXIF orientation; transparent pixels over the policy's
    background; greyscale, palette, CMYK and 16-bit images converted. An 8-bit RGB image that has the policy's size
    already keeps its exact pixels.

    Raises `ImageError`, with a sentence that leaves naming the image to the caller, for whatever is no usable image.
    """
    if not data:
        raise ImageError("The file is empty (0 bytes).")
    if len(data) > policy.max_bytes:
        raise ImageError(f"It has {len(data):,} bytes, more than the {policy.max_bytes:,} allowed.")
    try:
        with _opened(data) as image:
            _check_sides(image, policy)
            # A JPEG can be decoded at a fraction of its size; twice the target leaves the resampling its detail.
            image.draft(None, (2 * max(policy.size), 2 * max(policy.size)))
            image.load()
            upright = _upright(_to_rgb(image, policy.background), image)
        return np.array(_fitted(upright, policy))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("It needs more memory than there is to decode it.") from None
    except Exception as error:  # decoders fail on broken files with nearly every kind of exception
        raise ImageError(f"It can't be decoded: {first_line(error)}.") from error


def encode(pixels: np.ndarray, format: Literal["png", "jpeg", "webp"] = "png", quality: int = 95) -> bytes:
    """(H, W, 3) uint8 RGB pixels as a PNG (lossless), JPEG (full colour resolution) or WebP (lossy) file.

    `quality` (1 to 100) is for JPEG and WebP. Raises `ValueError` for other pixels and formats.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    options: dict[str, dict[str, Any]] = {
        "png": {"compress_level": 4},  # of photographs 2 % larger than Pillow's default makes them, in 60 % of its time
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality},
    }
    if format not in options:
        raise ValueError(f"format must be png, jpeg or webp, not {format!r}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format.upper(), **options[format])
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: bombs are refused by `_check_sides`, and broken metadata is no matter here.

    Warning filters belong to the whole process, so one thread at a time changes them.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(data: bytes) -> Image.Image:
    try:
        with _quiet():
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(
            "Its width times height is so large that decoding it could exhaust memory: scale it down."
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"It is not an image in a supported format ({', '.join(FORMATS)}).") from None


def _check_sides(image: Image.Image, policy: DecodePolicy) -> None:
    if image.width * image.height > policy.max_pixels:
        raise ImageError(
            f"It has {image.width} × {image.height} pixels, more than the {policy.max_pixels:,} allowed in all."
        )
    if min(image.size) < policy.min_side:
        raise ImageError(f"It has {image.width} × {image.height} pixels; each side needs at least {policy.min_side}.")


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        below = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(below, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """One-channel integers of 16 bits, or floats of 0…1 or 0…255, as (H, W) uint8.

    Pillow's own conversion clips them at 255, which turns most such images white.
    """
    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not (low >= 0 and high <= 255):  # also when there is a NaN
            raise ImageError("Its floating-point pixels reach beyond 0 to 255: save it with 8 or 16 bits.")
        scale = 255.0 if high <= 1 else 1.0
    else:
        if not (low >= 0 and high <= 65535):
            raise ImageError("Its integer pixels reach beyond 16 bits: save it with 8 or 16 bits.")
        scale = 1 / 257
    return np.round(values * scale).astype(np.uint8)


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    try:
        with _quiet():
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata around a whole picture
        turn = None
    return pixels if turn is None else pixels.transpose(turn)


def _fitted(image: Image.Image, policy: DecodePolicy) -> Image.Image:
    height, width = policy.size
    box = (0.0, 0.0, float(image.width), float(image.height))
    if policy.fit == "crop":
        scale = max(width / image.width, height / image.height)
        left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
        box = (max(0.0, left), max(0.0, top), min(image.width, left + width / scale), 0.0)
        box = (*box[:3], min(image.height, top + height / scale))
    if policy.fit != "pad":
        return _resized(image, (width, height), box)
    scale = min(width / image.width, height / image.height)
    inner = (
        min(width, max(1, round(image.width * scale))),
        min(height, max(1, round(image.height * scale))),
    )
    canvas = Image.new("RGB", (width, height), policy.background)
    canvas.paste(_resized(image, inner, box), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS, box=box)
