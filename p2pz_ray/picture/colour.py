"""Colour profiles: conversion to sRGB, which models were trained on."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_PROBE = 17  # greys, or steps per side of the RGB cube, at which a profile is compared with sRGB
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_NEAR = 2  # levels of 255 by which other tools' sRGB profiles differ


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An "L", "RGB" or "CMYK" image as sRGB, by the ICC profile that its file holds.

    It is returned unchanged without a profile, or if the profile is broken, is for another kind of pixels, or is sRGB.
    """
    if not profile or image.mode not in _SPACES.values():
        return image
    transform = _transform(profile, image.mode)
    return image if transform is None else ImageCms.applyTransform(image, transform) or image


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(given.profile.xcolor_space) != mode:
            return None
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode != "CMYK" and _is_srgb(transform, mode) else transform


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = np.linspace(0, 255, _PROBE).astype(np.uint8)
    if mode == "L":
        probe = steps[None]
        same = np.repeat(probe[..., None], 3, axis=2)
    else:
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        same = probe
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform))
    return bool(np.abs(found.astype(int) - same).max() <= _NEAR)
