"""The error of edited pictures against the exact truth, which is known in the miniature world.

A collection of the miniature has a column `truth_EDIT` for each edit: the same scene with the edit made. An edited
picture's error is its mean squared difference from that, over the whole picture and over the background. It is compared
with the error of the unedited source: an edit that is no closer to the truth than no edit is useless.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.collection.lookup import Lookup
from p2pz_ray.errors import ImageError
from p2pz_ray.evaluation.metrics.metric import Mask, Pixels
from p2pz_ray.evaluation.metrics.miniature import animal
from p2pz_ray.evaluation.metrics.pixels import NO_DIFFERENCE
from p2pz_ray.evaluation.metrics.saliency import overlap
from p2pz_ray.mini.world import KINDS, Scene, render
from p2pz_ray.picture.codec import FORMATS, DecodePolicy, decode, encode


@dataclass(frozen=True)
class PairError:
    """Mean squared errors against the truth, of pixel values 0 … 1, over the three channels.

    edited, copy: of the edited picture and of the unedited source, over the whole picture.
    edited_background, copy_background: the same outside the objects of source and truth; None if the collection has no
    mask, or there is no background.
    """

    edited: float
    copy: float
    edited_background: float | None = None
    copy_background: float | None = None


@dataclass
class TruthSums:
    """Sums over pairs' errors. closer: number of edited pictures that are closer to the truth than their source;
    backgrounds: number of pairs whose background was compared; totals: Σ of each of `PairError`'s."""

    pairs: int = 0
    closer: int = 0
    backgrounds: int = 0
    totals: PairError = PairError(0.0, 0.0, 0.0, 0.0)

    def add(self, error: PairError) -> None:
        self.pairs += 1
        self.closer += error.edited < error.copy
        self.backgrounds += error.edited_background is not None
        self.totals = PairError(*(a + (b or 0.0) for a, b in zip(astuple(self.totals), astuple(error), strict=True)))

    @property
    def mean(self) -> PairError:
        """The mean errors; None for the background if it was never compared. There must be a pair."""
        edited, copy, *outside = astuple(self.totals)
        return PairError(
            edited / self.pairs, copy / self.pairs, *(x / self.backgrounds for x in outside if self.backgrounds)
        )


def psnr(error: float) -> float:
    """The peak signal-to-noise ratio in decibels of a mean squared error of pixel values 0 … 1; ∞ for none."""
    return math.inf if error == 0 else -10 * math.log10(error)


class Truth:
    """The counterfactuals of a miniature collection (Parquet: a file, a folder or a glob), looked up by id.

    targets: edit → its target word; by default the part of its name after the last "2".
    fit: how the run fitted images to the model's size; truths and masks are fitted in the same way.
    edits: the edits that every file has a `truth_EDIT` column for.

    Raises `ConfigError` if there is no Parquet file at the URI, or one without ids or truths.
    """

    def __init__(
        self,
        uri: str,
        storage_options: dict[str, Any] | None = None,
        *,
        targets: Mapping[str, str] | None = None,
        fit: Literal["crop", "pad", "stretch"] = "crop",
    ) -> None:
        self._targets, self._fit = dict(targets or {}), fit
        self._cells = Lookup(uri, storage_options, needs="truth_")
        self.edits = tuple(
            sorted(name.removeprefix("truth_") for name in self._cells.columns if name.startswith("truth_"))
        )

    def picture(self, id: str, edit: str) -> bytes | None:
        """The encoded truth, or None if this id or edit has none."""
        return self._cells.cell(id, f"truth_{edit}")

    def error(self, id: str, edit: str, source: bytes, edited: bytes) -> PairError | None:
        """The errors of an edited picture and of its unedited source; None if there is no truth.

        Raises `ImageError`, naming the pair, if one of the pictures can't be decoded.
        """
        truth = self.picture(id, edit)
        if truth is None:
            return None
        try:
            return self._compare(id, edit, source, edited, truth)
        except (ImageError, OSError) as error:
            raise ImageError(f"{id} ({edit}) can't be compared with its truth: {error}") from error

    def _compare(self, id: str, edit: str, source: bytes, edited: bytes, truth: bytes) -> PairError:
        policy = DecodePolicy(picture_size(edited), self._fit)
        right = _unit(decode(truth, policy))
        errors = [np.square(_unit(decode(data, policy)) - right).mean(axis=2) for data in (edited, source)]
        whole = [float(error.mean()) for error in errors]
        background = self._background(id, edit, truth, policy)
        if background is None or not background.any():
            return PairError(whole[0], whole[1])
        outside = [float(error[background].mean()) for error in errors]
        return PairError(whole[0], whole[1], outside[0], outside[1])

    def objects(self, id: str, *pictures: bytes | None) -> list[Mask] | None:
        """The object in each picture of a scene, (H, W), found by comparison with the empty scene. None if the
        collection has no such scene, or a picture is missing or not square, as scenes are."""
        scene = self._cells.cell(id, "scene")
        if scene is None or not all(pictures):
            return None
        size = picture_size(pictures[0] or b"")
        if size[0] != size[1]:
            return None
        policy = DecodePolicy(size, self._fit)
        return [animal(decode(data or b"", policy), Scene.from_json(scene)) for data in pictures]

    def _background(self, id: str, edit: str, truth: bytes, policy: DecodePolicy) -> NDArray[np.bool_] | None:
        """Where neither the source nor the truth has the object, (H, W) of the policy's size; None if unknown."""
        mask = self._cells.cell(id, "mask")
        if mask is None:
            return None
        return ~(_covered(mask, policy) | self._truth_mask(id, edit, truth, policy))

    def _truth_mask(self, id: str, edit: str, truth: bytes, policy: DecodePolicy) -> NDArray[np.bool_]:
        scene, target = self._cells.cell(id, "scene"), self._targets.get(edit, edit.rpartition("2")[2])
        if scene is not None and target in KINDS:
            _, mask = render(Scene.from_json(scene).with_(kind=target), picture_size(truth)[0])
            return _covered(encode(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255), policy)
        # A counterfactual equals its source wherever the new object isn't.
        source = self._cells.cell(id, "image")
        return (decode(truth, policy) != decode(source, policy)).any(axis=2)


class TruthScores:
    """The scores of a pair that need the truth."""

    columns: Mapping[str, str] = {
        "truth_mse": "mean squared error against the exact counterfactual, 0 … 1",
        "truth_psnr": "PSNR against the exact counterfactual, dB, at most 100",
        "truth_copy_mse": "mean squared error of the source as it is against the exact counterfactual",
        "truth_background_mse": "the same outside the objects of source and counterfactual",
        "truth_mask_iou": "IoU of the objects of edited picture and counterfactual, by the scene without one",
    }

    @classmethod
    def of(cls, error: PairError | None, objects: Sequence[Mask] | None) -> dict[str, float | None]:
        scores: dict[str, float | None] = dict.fromkeys(cls.columns)
        if error:
            scores["truth_mse"], scores["truth_copy_mse"] = error.edited, error.copy
            scores["truth_psnr"] = min(psnr(error.edited), NO_DIFFERENCE)
            scores["truth_background_mse"] = error.edited_background
        if objects:
            scores["truth_mask_iou"] = overlap(*objects)
        return scores


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width of an encoded picture, in pixels."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.height, image.width


def _unit(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)


def _covered(mask: bytes, policy: DecodePolicy) -> NDArray[np.bool_]:
    """A mask picture as (H, W) bool: every pixel that it touches at all, also after resampling."""
    return decode(mask, policy).max(axis=2) > 0
