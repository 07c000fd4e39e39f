"""The method in three calls: invert pictures, make directions, edit."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p2pz_ray.editing.attention import CrossAttentionMaps
from p2pz_ray.editing.checkpoint import fingerprint, locate
from p2pz_ray.editing.direction import EditDirection
from p2pz_ray.editing.guidance import GuidanceSettings, edit, edit_official
from p2pz_ray.editing.inversion import Inversion, InversionSettings, Watch, invert
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.schedule import Schedule
from p2pz_ray.editing.text import Condition

Pictures = NDArray[np.uint8] | Sequence[Image.Image]


class Editor:
    """pix2pix-zero on one checkpoint. Every image comes out as if it had been edited alone.

    `parity="official"` computes what the authors' code and diffusers' pipeline compute, one image and one direction at
    a time, for comparison with them.
    """

    def __init__(
        self,
        model: DiffusionModel,
        *,
        inversion: InversionSettings | None = None,
        guidance: GuidanceSettings | None = None,
        parity: Literal["official"] | None = None,
        fingerprint: str = "",
    ):
        self.model = model
        self.inversion = inversion or InversionSettings()
        self.guidance = guidance or GuidanceSettings()
        self.parity = parity
        self.fingerprint = fingerprint
        self.watch: Watch | None = None
        self.maps = CrossAttentionMaps(model.unet)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "mini",
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        **settings: Any,
    ) -> "Editor":
        """Load "mini", a folder in StableDiffusion(XL)Pipeline layout, its URI, or a hub id; `settings` go to `Editor`.

        `compile` spends minutes once for faster passes thereafter (see DiffusionModel.compile).

        Raises ConfigError where there is no such checkpoint.
        """
        folder = locate(model, revision)
        loaded = DiffusionModel.load(folder, device, dtype)
        editor = cls(loaded, fingerprint=fingerprint(folder), **settings)
        if compile:
            loaded.compile()
        return editor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels that the checkpoint was trained at."""
        return (self.model.side, self.model.side)

    def direction(self, source_sentences: list[str], target_sentences: list[str], **provenance: Any) -> EditDirection:
        """The direction from one set of sentences to another, in this checkpoint's text space."""
        return EditDirection.from_sentences(self.model.text, source_sentences, target_sentences, **provenance)

    def invert(self, images: Pictures, captions: Sequence[str], seeds: Sequence[int]) -> Inversion:
        """Walk B pictures up to noise.

        Args:
            images: (B, H, W, 3) uint8, or PIL images of one size; H and W multiples of the model's factor (8 for
                Stable Diffusion), and best of what every level of the UNet can halve.
            captions: what each picture shows, B sentences.
            seeds: one non-negative number a picture, the only source of randomness.

        Raises ValueError where the counts or sizes don't fit.
        """
        pixels = _pixels(images)
        if not len(pixels) == len(captions) == len(seeds):
            raise ValueError(f"{len(pixels)} images, {len(captions)} captions, {len(seeds)} seeds: give one of each")
        if any(side % self.model.factor for side in pixels.shape[1:3]):
            raise ValueError(f"images are {pixels.shape[1:3]} pixels: give multiples of {self.model.factor}")
        latents = self.model.encode(pixels)
        inversion = invert(self.model, latents, list(captions), list(seeds), self.inversion, self.watch)
        return replace(inversion, images=pixels)

    def inverted(
        self, trajectory: NDArray[np.float32], images: NDArray[np.uint8], captions: Sequence[str]
    ) -> Inversion:
        """What `invert` gave these images before, made again from its `trajectory` without an evaluation."""
        schedule = Schedule.of(self.model.scheduler, len(trajectory) - 1)
        latents = torch.from_numpy(trajectory).to(self.model.device)
        return Inversion(latents, self.model.embed(list(captions)), tuple(captions), schedule, images)

    def edit(
        self,
        inversion: Inversion,
        directions: Sequence[EditDirection],
        strengths: Sequence[float] | None = None,
        masks: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint8]:
        """Each of B inverted pictures under each of K directions: (B, K, H, W, 3) uint8.

        `strengths` (K) scale the directions. `masks` (B, H, W) confine the edit: every pixel outside them is the
        source's own. Raises ConfigError for a direction made for another model, ValueError for masks that don't fit.
        """
        latents = self.edit_latents(inversion, directions, strengths, masks)
        pictures = self.model.decode(latents.flatten(0, 1))
        edited = pictures.reshape(*latents.shape[:2], *pictures.shape[1:])
        if masks is None:
            return edited
        return np.where(masks[:, None, :, :, None], edited, _sources(inversion)[:, None])

    def edit_latents(
        self,
        inversion: Inversion,
        directions: Sequence[EditDirection],
        strengths: Sequence[float] | None = None,
        masks: NDArray[np.bool_] | None = None,
    ) -> Tensor:
        """`edit` before decoding: (B, K, 4, h, w) latents."""
        if not directions:
            raise ValueError("no direction given: give at least one")
        for k, direction in enumerate(directions):
            direction.check(self.model.text, str(direction.provenance.get("name", k)))
        by = strengths or [1.0] * len(directions)
        scaled = Condition.cat([(each * k).condition for each, k in zip(directions, by, strict=True)]).each(
            lambda part: part.to(self.model.device)
        )
        cells = None if masks is None else self._cells(masks, inversion)
        if self.parity is None:
            return edit(self.model, self.maps, inversion, scaled, self.guidance, cells, self.watch)
        if len(inversion.c) != 1 or len(directions) != 1:
            raise ValueError("official parity takes one image and one direction: that is all its reference can do")
        if cells is not None:
            raise ValueError("official parity takes no masks: the reference code has none")
        return edit_official(self.model, self.maps, inversion, scaled, self.guidance)

    def _cells(self, masks: NDArray[np.bool_], inversion: Inversion) -> Tensor:
        """The latent cells (B, 1, h, w) that a mask touches at all."""
        wanted = _sources(inversion).shape[:3]
        if masks.shape != wanted or masks.dtype != np.bool_:
            raise ValueError(f"masks are {masks.dtype} {masks.shape}: give bool {wanted}, one a picture and its size")
        touched = torch.from_numpy(np.ascontiguousarray(masks)).to(self.model.device)[:, None].float()
        return F.max_pool2d(touched, self.model.factor).bool()


def _sources(inversion: Inversion) -> NDArray[np.uint8]:
    if inversion.images is None:
        raise ValueError("this inversion doesn't hold its pictures, which masks need: make it with Editor.invert")
    return inversion.images


def _pixels(images: Pictures) -> NDArray[np.uint8]:
    if isinstance(images, np.ndarray):
        pixels = images
    else:
        sizes = {image.size for image in images}
        if len(sizes) > 1:
            raise ValueError(f"images of {len(sizes)} sizes in one batch: resize them to one")
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}: give (B, H, W, 3) uint8")
    return pixels
