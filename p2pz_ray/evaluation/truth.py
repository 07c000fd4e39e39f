"""How far edited pictures are from the exact right answer, which the miniature world knows.

A collection of the miniature carries, for each edit, a column `truth_EDIT`: the same scene with the edit made. An
edited picture's error is its mean squared difference from that, over the whole picture and over the background, beside
the error of the source left as it is: an edit that is no closer to the truth than no edit has done nothing good.
"""

import io
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.collection.codec import FORMATS, DecodePolicy, decode, encode
from p2pz_ray.collection.listing import locate, walk
from p2pz_ray.collection.store import Store
from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.mini.world import KINDS, Scene, render

Pixels = NDArray[np.uint8]
_KEPT_ROW_GROUPS = 4


@dataclass(frozen=True)
class PairError:
    """Mean squared errors against the truth, of pixel values 0 … 1, over the three channels.

    edited, copy: of the edited picture and of the source left as it is, over the whole picture.
    edited_background, copy_background: the same outside the object of both; None where the collection has no mask,
    or nothing lies outside.
    """

    edited: float
    copy: float
    edited_background: float | None = None
    copy_background: float | None = None


@dataclass(frozen=True)
class TruthSummary:
    """Means of many pairs' errors. closer: how many edited pictures are closer to the truth than the copy is."""

    pairs: int
    closer: int
    edited: float
    copy: float
    edited_background: float | None
    copy_background: float | None

    @classmethod
    def of(cls, errors: Sequence[PairError]) -> "TruthSummary":
        """Raises `ValueError` for no errors: there is no mean of nothing."""
        if not errors:
            raise ValueError("no pairs to summarize")
        edited = [error.edited_background for error in errors if error.edited_background is not None]
        copies = [error.copy_background for error in errors if error.copy_background is not None]
        return cls(
            pairs=len(errors),
            closer=sum(error.edited < error.copy for error in errors),
            edited=sum(error.edited for error in errors) / len(errors),
            copy=sum(error.copy for error in errors) / len(errors),
            edited_background=sum(edited) / len(edited) if edited else None,
            copy_background=sum(copies) / len(copies) if copies else None,
        )


def psnr(error: float) -> float:
    """The peak signal-to-noise ratio in decibels of a mean squared error of pixel values 0 … 1; ∞ for none."""
    return math.inf if error == 0 else -10 * math.log10(error)


class Truth:
    """The counterfactuals of a miniature collection (Parquet: a file, a folder or a glob), looked up by id.

    targets: for an edit, the word it leads to; by default what follows the last "2" of its name.
    fit: how the run fitted images to the model's size; truths and masks are fitted alike.
    edits: the edits that every file has a `truth_EDIT` column for.

    Raises `ConfigError` if there is no Parquet file at the URI, or one that has no ids or no truth.
    """

    def __init__(
        self,
        uri: str,
        storage_options: dict[str, Any] | None = None,
        *,
        targets: Mapping[str, str] | None = None,
        fit: Literal["crop", "pad", "stretch"] = "crop",
    ) -> None:
        self.uri, self._targets, self._fit = uri, dict(targets or {}), fit
        self._store, pattern = locate(Store(uri, storage_options))
        entries = walk(self._store, pattern, lambda path: path.endswith(".parquet")).entries
        if not entries:
            raise ConfigError(f"{uri} has no Parquet file: give the collection that p2pz world wrote.")
        self._places: dict[str, tuple[str, int, int]] = {}  # id → file, row group, row in it
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self.edits = tuple(sorted(set.intersection(*(self._index(entry.path) for entry in entries))))

    def picture(self, id: str, edit: str) -> bytes | None:
        """The encoded truth, or None if this id or edit has none."""
        return self._cell(id, f"truth_{edit}")

    def error(self, id: str, edit: str, source: bytes, edited: bytes) -> PairError | None:
        """How far an edited picture, and its source left as it is, are from the truth; None if there is none.

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
        policy = DecodePolicy(_size(edited), self._fit)
        right = _unit(decode(truth, policy))
        errors = [np.square(_unit(decode(data, policy)) - right).mean(axis=2) for data in (edited, source)]
        whole = [float(error.mean()) for error in errors]
        background = self._background(id, edit, truth, policy)
        if background is None or not background.any():
            return PairError(whole[0], whole[1])
        outside = [float(error[background].mean()) for error in errors]
        return PairError(whole[0], whole[1], outside[0], outside[1])

    def _background(self, id: str, edit: str, truth: bytes, policy: DecodePolicy) -> NDArray[np.bool_] | None:
        """Where neither the source nor the truth has the object, (H, W) of the policy's size; None if unknown."""
        mask = self._cell(id, "mask")
        if mask is None:
            return None
        return ~(_covered(mask, policy) | self._truth_mask(id, edit, truth, policy))

    def _truth_mask(self, id: str, edit: str, truth: bytes, policy: DecodePolicy) -> NDArray[np.bool_]:
        scene, target = self._cell(id, "scene"), self._targets.get(edit, edit.rpartition("2")[2])
        if scene is not None and target in KINDS:
            _, mask = render(Scene.from_json(scene).with_(kind=target), _size(truth)[0])
            return _covered(encode(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255), policy)
        # A counterfactual equals its source wherever the new object isn't.
        source = self._cell(id, "image")
        return (decode(truth, policy) != decode(source, policy)).any(axis=2)

    def _cell(self, id: str, column: str) -> Any:
        """A value by id and column, an image's bytes for an image; None where there is none."""
        place = self._places.get(id)
        if place is None:
            return None
        path, group, row = place
        table = self._group(path, group)
        value = table[column][row].as_py() if column in table.column_names else None
        return value["bytes"] if isinstance(value, dict) else value

    def _group(self, path: str, group: int) -> pa.Table:
        # Pairs come in the collection's order, so a few row groups at hand serve nearly every look-up.
        if (path, group) in self._groups:
            self._groups.move_to_end((path, group))
        else:
            with self._store.open(path) as file:
                self._groups[path, group] = pq.ParquetFile(file).read_row_group(group)
            if len(self._groups) > _KEPT_ROW_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[path, group]

    def _index(self, path: str) -> set[str]:
        """Note where the file's ids are; the edits that it has truths for."""
        name = self._store.name(path)
        try:
            with self._store.open(path) as file:
                parquet = pq.ParquetFile(file)
                columns = parquet.schema_arrow.names
                edits = {column.removeprefix("truth_") for column in columns if column.startswith("truth_")}
                if "id" not in columns or not edits:
                    raise ConfigError(
                        f"{name} has no column id or no truth_EDIT; its columns are {', '.join(columns)}: give the "
                        "collection that p2pz world wrote."
                    )
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, ["id"])["id"].to_pylist()
                    for row, id in enumerate(ids):
                        self._places.setdefault(str(id), (path, group, row))
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{name} is not a readable Parquet file: write it again or leave it out.") from error
        return edits


def _size(data: bytes) -> tuple[int, int]:
    """Height and width of an encoded picture, in pixels."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.height, image.width


def _unit(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)


def _covered(mask: bytes, policy: DecodePolicy) -> NDArray[np.bool_]:
    """A mask picture as (H, W) bool: whatever it touches at all, also after resampling."""
    return decode(mask, policy).max(axis=2) > 0
