"""The method in three calls: invert pictures, make directions, edit."""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2pz_ray.editing import official, paper
from p2pz_ray.editing.attention import CrossAttentionMaps
from p2pz_ray.editing.checkpoint.files import identity, locate, locate_vae
from p2pz_ray.editing.checkpoint.lora import Lora
from p2pz_ray.editing.confine import Wanted, confined
from p2pz_ray.editing.control import Control, Controls, Hint
from p2pz_ray.editing.direction import EditDirection
from p2pz_ray.editing.fault import faults, of_trajectory, remedy
from p2pz_ray.editing.inversion import Inversion, Watch, invert
from p2pz_ray.editing.mask import Mask, blended, cells_of
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.pixels import Pictures, pixels_of, sources_of
from p2pz_ray.editing.schedule import Schedule
from p2pz_ray.editing.settings import GuidanceSettings, InversionSettings
from p2pz_ray.editing.text import Condition
from p2pz_ray.errors import ConfigError, ImageError

LARGE = 8
"""An image with this many times the pixels that the model was trained at causes a warning."""


@dataclass(frozen=True)
class Edits:
    """K edits of each of B pictures, (B, K, H, W, 3) uint8. `faults` has for each None, or a sentence on what is wrong
    that names the precision and settings to change. `masks` (B, K, H, W) are the shares that the edits were confined
    to, from given and found masks together; None if they were not confined."""

    pixels: NDArray[np.uint8]
    faults: tuple[tuple[str | None, ...], ...]
    masks: NDArray[np.float32] | None = None


class Editor:
    """pix2pix-zero on one checkpoint. Every image comes out as if it had been edited alone.

    `parity="official"` means `GuidanceSettings(form="official")`, whatever form `guidance` has. `controls` condition
    the UNet on pictures: only in the edit's passes, or with `controls_act="all"` in those of inversion and reference
    too.
    """

    def __init__(
        self,
        model: DiffusionModel,
        *,
        inversion: InversionSettings | None = None,
        guidance: GuidanceSettings | None = None,
        parity: Literal["official"] | None = None,
        controls: Sequence[Control] = (),
        controls_act: Literal["all", "edit"] = "edit",
        fingerprint: str = "",
    ):
        self.model = model
        self.inversion = inversion or InversionSettings()
        self.guidance = guidance or GuidanceSettings()
        self.parity = parity
        self.controls_act = controls_act
        self.controls = Controls.load(controls, model.unet)
        if controls:
            model.controls = self.controls
        if controls and self.official:
            raise ConfigError("form official doesn't support conditions: leave them out, or set form to paper")
        if controls and controls_act == "all":  # which an inversion then depends on
            fingerprint = "+".join([fingerprint, *(control.identity for control in controls)])
        self.fingerprint = fingerprint
        self.watch: Watch | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "mini",
        *,
        revision: str | None = None,
        layout: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae: str | None = None,
        loras: Sequence[Lora] = (),
        compile: bool = False,
        checkpointing: bool = False,
        **settings: Any,
    ) -> "Editor":
        """Load "mini", a folder in StableDiffusion(XL)Pipeline layout, its URI, a hub id, or one .safetensors file;
        `settings` go to `Editor`.

        `layout` is the folder or hub id whose configurations a single file takes, None for Stable Diffusion's own.
        `vae` is the folder or hub id of another autoencoder; `loras` are fused into the weights. `compile` spends
        minutes once for faster passes thereafter (see DiffusionModel.compile), `checkpointing` time for memory (see
        DiffusionModel.checkpoint).

        Raises ConfigError where there is no such checkpoint.
        """
        half = dtype != torch.float32
        folder = locate(model, revision, half, layout=layout)
        other = None if vae is None else locate_vae(vae, half)
        loaded = DiffusionModel.load(folder, device, dtype, other, loras)
        editor = cls(loaded, fingerprint=identity(folder, other, loras, half), **settings)
        if compile:
            loaded.compile()
        if checkpointing:
            loaded.checkpoint()
        return editor

    @property
    def maps(self) -> CrossAttentionMaps:
        """The model's maps, which all its editors share."""
        return self.model.maps

    @property
    def official(self) -> bool:
        """Whether it follows the authors' code instead of the paper's formula."""
        return self.parity == "official" or self.guidance.form == "official"

    @property
    def inverts(self) -> InversionSettings:
        """Its inversion settings, with the checkpoint's defaults for those not set."""
        return self.inversion.resolve(self.model, self.official)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels that the checkpoint was trained at."""
        return (self.model.side, self.model.side)

    def direction(self, source_sentences: list[str], target_sentences: list[str], **provenance: Any) -> EditDirection:
        """The direction from one set of sentences to another, in this checkpoint's text space."""
        return EditDirection.from_sentences(self.model.text, source_sentences, target_sentences, **provenance)

    def invert(
        self,
        images: Pictures,
        captions: Sequence[str],
        seeds: Sequence[int],
        conditions: Sequence[NDArray[np.uint8] | None] = (),
    ) -> Inversion:
        """Walk B pictures up to noise.

        Args:
            images: (B, H, W, 3) uint8, or arrays or PIL images of one size; H and W multiples of the model's factor
                (8 for Stable Diffusion), and best of what every level of the UNet can halve.
            captions: what each picture shows, B sentences.
            seeds: one non-negative number a picture, the only source of randomness.
            conditions: for each of the editor's controls its pictures (B, H, W, 3); None for one that makes its own.

        Images whose latents are not finite or have exploded are reported in the inversion's `faults`. Images much
        larger than the model was trained at cause a warning. Raises ValueError if counts or sizes don't fit.
        """
        pixels = pixels_of(images)
        if isinstance(captions, str):
            raise ValueError(f"captions is one text, {captions!r}: give a list with one caption for each image")
        if not len(pixels) == len(captions) == len(seeds):
            raise ValueError(f"{len(pixels)} images, {len(captions)} captions, {len(seeds)} seeds: give one of each")
        if any(side % self.model.factor for side in pixels.shape[1:3]):
            raise ValueError(f"images are {pixels.shape[1:3]} pixels: give multiples of {self.model.factor}")
        self._say_if_large(pixels.shape[1:3])
        latents = self.model.encode(pixels)
        numbers = [int(seed) for seed in seeds]
        hints, own = self._hints(pixels, conditions)
        inversion = invert(self.model, latents, list(captions), numbers, self.inverts, self.watch, own)
        faulty = self._inversion_faults(inversion.trajectory)
        return replace(inversion, images=pixels, faults=faulty, hints=hints)

    def inverted(
        self,
        trajectory: NDArray[np.float32],
        images: NDArray[np.uint8],
        captions: Sequence[str],
        conditions: Sequence[NDArray[np.uint8] | None] = (),
    ) -> Inversion:
        """The same as `invert` returned for these images before, rebuilt from its `trajectory` without running the
        UNet."""
        schedule = Schedule.of(self.model.scheduler, len(trajectory) - 1)
        latents = torch.from_numpy(trajectory).to(self.model.device)
        faulty = self._inversion_faults(latents)
        hints, own = self._hints(images, conditions)
        c = self.model.embed(list(captions)).shown(own)
        return Inversion(latents, c, tuple(captions), schedule, images, faulty, hints)

    def _say_if_large(self, size: tuple[int, int]) -> None:
        """Attention's work grows with the square of the pixels: a photograph can keep a small model busy for hours."""
        times = math.prod(size) / math.prod(self.size)
        if times > LARGE:
            warnings.warn(
                f"images are {size[0]} × {size[1]} px, {times:.0f} times the pixels that this model was trained at: it "
                f"takes at least {times:.0f} times as long, and the model knows nothing so large. Resize them to "
                f"{self.size[0]} × {self.size[1]}.",
                stacklevel=3,
            )

    def _hints(
        self, images: NDArray[np.uint8], conditions: Sequence[NDArray[np.uint8] | None]
    ) -> tuple[tuple[Hint, ...], tuple[Hint, ...]]:
        """The controls' encodings of the pictures, for the edit and for the inversion."""
        hints = self.controls.hints(self.controls.pictures(images, conditions))
        return hints, hints if self.controls_act == "all" else ()

    def edit(
        self,
        inversion: Inversion,
        directions: Sequence[EditDirection],
        strengths: Sequence[float] | None = None,
        masks: Mask | None = None,
    ) -> NDArray[np.uint8]:
        """Each of B inverted pictures under each of K directions: (B, K, H, W, 3) uint8.

        `strengths` (K) scale the directions. `masks` (B, H, W) confine the edit: bool, or in 0 … 1 the share of the
        noise levels during which a pixel may change. Every pixel outside them is the source's own. Raises ConfigError
        for a direction made for another model, ValueError for masks that don't fit, ImageError where an edit is no
        picture (see `edit_each`).
        """
        made = self.edit_each(inversion, directions, strengths, masks)
        for i, found in enumerate(made.faults):
            for k, fault in enumerate(found):
                if fault is not None:
                    raise ImageError(f"Image {i} under direction {k}: {fault}")
        return made.pixels

    def edit_each(
        self,
        inversion: Inversion,
        directions: Sequence[EditDirection],
        strengths: Sequence[float] | None = None,
        masks: Mask | None = None,
    ) -> Edits:
        """Like `edit`, but reports what is wrong with each edit instead of raising ImageError."""
        scaled = self._scaled(directions, strengths)
        shares = self._masks(inversion, directions, scaled, masks)
        latents = self._edit_latents(inversion, scaled, shares)
        B, K = latents.shape[:2]
        rows = latents.flatten(0, 1)
        broken = faults(rows)
        # A broken row is decoded as zeros, so that it can't affect the others.
        sound = torch.tensor([fault is None for fault in broken], device=rows.device).view(-1, 1, 1, 1)
        rows = torch.where(sound, rows, 0.0)
        pictures, finite = self.model.decode(rows, at_once=B)
        inverted = inversion.faults or (None,) * B
        said = [
            inverted[i // K] or self._edit_fault(broken[i]) or (None if finite[i] else self._decoding_fault())
            for i in range(B * K)
        ]
        edited = pictures.reshape(B, K, *pictures.shape[1:])
        if shares is not None:
            edited = blended(edited, sources_of(inversion), shares, self.guidance.feather)
        return Edits(edited, tuple(tuple(said[i * K : (i + 1) * K]) for i in range(B)), shares)

    def edit_latents(
        self,
        inversion: Inversion,
        directions: Sequence[EditDirection],
        strengths: Sequence[float] | None = None,
        masks: Mask | None = None,
    ) -> Tensor:
        """`edit` before decoding: (B, K, 4, h, w) latents, not checked."""
        scaled = self._scaled(directions, strengths)
        shares = self._masks(inversion, directions, scaled, masks)
        return self._edit_latents(inversion, scaled, shares)

    def _scaled(self, directions: Sequence[EditDirection], strengths: Sequence[float] | None) -> Condition:
        """K directions at their strengths, checked, as rows."""
        if not directions:
            raise ValueError("no direction given: give at least one")
        for k, direction in enumerate(directions):
            direction.check(self.model.text, str(direction.provenance.get("name", k)))
        by = [1.0] * len(directions) if strengths is None else [float(strength) for strength in strengths]
        if len(by) != len(directions):
            raise ValueError(f"{len(directions)} directions, {len(by)} strengths: give one of each")
        return Condition.cat([(each * k).condition for each, k in zip(directions, by, strict=True)]).each(
            lambda part: part.to(self.model.device)
        )

    def _edit_latents(self, inversion: Inversion, scaled: Condition, shares: NDArray[np.float32] | None) -> Tensor:
        cells = None if shares is None else cells_of(shares, self.model.factor).to(self.model.device)
        if self.official:  # which refuses, under `parity` too, what it doesn't know
            guidance = replace(self.guidance, form="official")
            return official.edit(self.model, inversion, scaled, guidance, cells, self.watch)
        return paper.edit(self.model, inversion, scaled, self.guidance, cells, self.watch)

    def _inversion_faults(self, trajectory: Tensor) -> tuple[str | None, ...]:
        how, encoded = self.inverts, faults(trajectory[0])

        def sentence(start: str | None, later: str | None) -> str | None:
            if start is not None:
                return f"Its encoded latents are {start}, {remedy(self.model.vae_dtype, 'give another model.vae')}."
            if later is None:
                return None
            lower = f"lower inversion.lambda_ac {how.lambda_ac:g} and inversion.lambda_kl {how.lambda_kl:g}"
            return f"Its inversion's latents are {later}, {remedy(self.model.dtype, lower)}."

        return tuple(map(sentence, encoded, of_trajectory(trajectory)))

    def _edit_fault(self, fault: str | None) -> str | None:
        if fault is None:
            return None
        lambda_xa, cfg, strength = self.guidance.resolve(self.model)
        lower = f"lower guidance.lambda_xa {lambda_xa:g}, guidance.cfg {cfg:g} or guidance.strength {strength:g}"
        return f"Its edited latents are {fault}, {remedy(self.model.dtype, lower)}."

    def _decoding_fault(self) -> str:
        return f"Its decoded picture is not finite, {remedy(self.model.vae_dtype, 'give another model.vae')}."

    def _masks(
        self, inversion: Inversion, directions: Sequence[EditDirection], scaled: Condition, masks: Mask | None
    ) -> NDArray[np.float32] | None:
        """The masks (B, K, H, W) that confine the edits: given, found by the model, or both combined."""
        given = None if masks is None else self._shares(masks, inversion, len(directions))
        if self.guidance.confine == "none":
            return given
        wanted = [Wanted.of(self.model, direction) for direction in directions]
        size = sources_of(inversion).shape[1:3]
        found = confined(self.model, inversion, scaled, wanted, self.guidance, (size[0], size[1]))
        return found if given is None else np.minimum(given, found)

    def _shares(self, masks: Mask, inversion: Inversion, K: int) -> NDArray[np.float32]:
        """Masks (B, H, W) for each of K edits, (B, K, H, W) float32."""
        wanted = sources_of(inversion).shape[:3]
        if masks.shape != wanted or masks.dtype not in (np.bool_, np.float32, np.float64):
            raise ValueError(f"masks are {masks.dtype} {masks.shape}: give bool {wanted}, one a picture and its size")
        shares = masks.astype(np.float32)
        if not (np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1):
            raise ValueError("masks hold values outside 0 … 1: give the share of the noise levels that may change")
        return np.repeat(shares[:, None], K, axis=1)
