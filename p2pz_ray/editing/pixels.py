"""Pictures as people hand them over, and as the model takes them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.editing.inversion import Inversion

Pictures = NDArray[np.uint8] | Sequence[Image.Image] | Sequence[NDArray[np.uint8]]


def sources_of(inversion: Inversion) -> NDArray[np.uint8]:
    if inversion.images is None:
        raise ValueError("this inversion doesn't hold its pictures, which masks need: make it with Editor.invert")
    return inversion.images


def pixels_of(images: Pictures) -> NDArray[np.uint8]:
    if isinstance(images, np.ndarray):
        pixels = images
    else:
        each = [np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image for image in images]
        sizes = {np.shape(image) for image in each}
        if len(sizes) != 1:
            raise ValueError(f"images of {len(sizes)} sizes in one batch: give one or more, resized to one")
        pixels = np.stack(each)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}: give (B, H, W, 3) uint8")
    return pixels
