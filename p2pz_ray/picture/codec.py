"""Encoded images to pixels and back: a decoder that is safe for any file, and an encoder."""

from __future__ import annotations

import importlib
import io
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from p2pz_ray.errors import ConfigError, ImageError, first_line
from p2pz_ray.picture.colour import to_srgb
from p2pz_ray.picture.depth import deep_colours, one_channel
from p2pz_ray.picture.signature import kind_of

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Formats that are decoded. Pillow knows more, but every decoder is an attack surface for untrusted files."""
_EXTRA = {"HEIC": ("HEIF", "pillow_heif"), "JPEG XL": ("JXL", "pillow_jxl")}
"""Formats that need another package: Pillow's name for the format, and the Python module."""

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
_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST_TEXT = 1 << 20  # bytes of a PNG's text chunk that Pillow reads


@dataclass(frozen=True)
class DecodePolicy:
    """How images are resized for the model, and which are refused.

    size: (height, width) in pixels of every decoded image.
    fit: "crop" scales until the image covers `size` and cuts what overhangs, equally on both sides; "pad" scales
        until it fits inside and fills the rest with `background`; "stretch" scales each side by itself.
    max_bytes: largest encoded image, in bytes.
    max_pixels: largest width × height; more is refused before a pixel is decoded.
    min_side: smallest width and height in pixels.
    background: RGB behind transparent pixels and around padded ones.

    Raises `ConfigError` for invalid values.
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


def decode(data: bytes, policy: DecodePolicy, say: Callable[[str], None] | None = None) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8 RGB of the policy's size, in the colours of sRGB.

    Animations give their first frame. Images are turned upright by their EXIF orientation, and transparent pixels get
    the policy's background. Greyscale, palette, CMYK and 16-bit images are converted; embedded colour profiles are
    applied. 16-bit samples that use fewer bits are scaled by those bits, and `say` is called with a sentence about it.
    An 8-bit image in sRGB that already has the policy's size keeps its exact pixels.

    Raises `ImageError`, with a sentence that doesn't name the image, for anything that isn't a usable image.
    """
    if not data:
        raise ImageError("The file is empty (0 bytes).")
    if len(data) > policy.max_bytes:
        raise ImageError(f"It has {len(data):,} bytes, more than the {policy.max_bytes:,} allowed.")
    try:
        data = _without_text(data)
        with _opened(data) as image:
            _check_sides(image, policy)
            # A JPEG can be decoded at a fraction of its size; twice the target leaves the resampling its detail.
            image.draft(None, (2 * max(policy.size), 2 * max(policy.size)))
            image.load()
            colours, said = _to_rgb(data, image, policy.background)
            upright = _upright(colours, image)
            if said and say is not None:
                say(said)
        return np.array(_fitted(upright, policy))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("It needs more memory than there is to decode it.") from None
    except Exception as error:  # decoders fail on broken files with nearly every kind of exception
        raise ImageError(f"It can't be decoded: {first_line(error)}.") from error


def encode(
    pixels: np.ndarray,
    format: Literal["png", "jpeg", "webp"] = "png",
    quality: int = 95,
    xmp: bytes | None = None,
) -> bytes:
    """(H, W, 3) uint8 RGB pixels as a PNG (lossless), JPEG (full colour resolution) or WebP (lossy) file.

    `quality` (1 to 100) is for JPEG and WebP; `xmp` is a packet of metadata to embed. Raises `ValueError`
    for other pixels and formats.
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
    more: dict[str, Any] = {}
    if xmp is not None and format == "png":
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp is not None:
        more["xmp"] = xmp
    # To a real file Pillow writes without holding Python's lock, so several threads can encode at once.
    with _file() as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format.upper(), **options[format], **more)
        file.seek(0)
        return file.read()


def _file() -> IO[bytes]:
    """A temporary file, deleted when it is closed; in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("picture"), "w+b")
    return tempfile.TemporaryFile()


@contextmanager
def _quiet() -> Iterator[None]:
    """Turns Pillow's warnings off: `_check_sides` refuses decompression bombs, and broken metadata doesn't matter here.

    Warning filters belong to the whole process, so one thread at a time changes them.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(data: bytes) -> Image.Image:
    kind = kind_of(data)
    formats: tuple[str, ...] = FORMATS
    if kind is not None and kind[0] in _EXTRA and _registered(kind[0]):
        formats, kind = (_EXTRA[kind[0]][0],), None
    try:
        if kind is not None:
            raise UnidentifiedImageError
        with _quiet():
            return Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise ImageError(
            "Its width times height is so large that decoding it could exhaust memory: scale it down."
        ) from None
    except UnidentifiedImageError:
        if kind is not None:
            raise ImageError(f"It is {kind[0]}, not an image in a supported format: {kind[1]}.") from None
        raise ImageError(f"It is not an image in a supported format ({', '.join(FORMATS)}).") from None


@cache
def _registered(kind: str) -> bool:
    """Whether the package that decodes this kind is installed; registers it with Pillow."""
    format, package = _EXTRA[kind]
    try:
        module = importlib.import_module(package)
    except ImportError:
        return False
    if format == "HEIF":
        module.register_heif_opener()
    return format in Image.registered_extensions().values()


def _without_text(data: bytes) -> bytes:
    """A PNG without its text chunks, which may be large, or a decompression bomb, and don't affect the picture.

    Uncompressed international text stays unless it is large, since it may hold the orientation.
    """
    if not data.startswith(_PNG):
        return data
    kept, position = [_PNG], len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        kind, end = data[position + 4 : position + 8], position + 12 + length
        content = data[position + 8 : min(end, position + 8 + 256)]
        plain = kind == b"iTXt" and length <= _LONGEST_TEXT and content.partition(b"\0")[2][:1] == b"\0"
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or plain:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def _check_sides(image: Image.Image, policy: DecodePolicy) -> None:
    if image.width * image.height > policy.max_pixels:
        raise ImageError(
            f"It has {image.width} × {image.height} pixels, more than the {policy.max_pixels:,} allowed in all."
        )
    if min(image.size) < policy.min_side:
        raise ImageError(f"It has {image.width} × {image.height} pixels; each side needs at least {policy.min_side}.")


def _to_rgb(data: bytes, image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, str | None]:
    """A loaded image in sRGB, and a sentence on what was assumed about its samples, if anything."""
    said = None
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        values, said = one_channel(image)
        return to_srgb(Image.fromarray(values), profile).convert("RGB"), said
    deep = deep_colours(data, image, FORMATS)
    transparent = image.has_transparency_data
    if deep is not None:
        image, said = deep
    if transparent:
        rgba = image.convert("RGBA")
        colours = to_srgb(rgba.convert("RGB"), profile)
        colours.putalpha(rgba.getchannel("A"))
        below = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(below, colours).convert("RGB"), said
    if image.mode in ("P", "1"):
        image = image.convert("RGB")
    return to_srgb(image, profile).convert("RGB"), said


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    try:
        with _quiet():
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata, but the picture is whole
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
