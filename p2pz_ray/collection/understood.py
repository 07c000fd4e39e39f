"""A one-line description of a collection as it was understood, shown before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from p2pz_ray.amount import count, size
from p2pz_ray.collection.listing import locate
from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.table import TableFile
from p2pz_ray.storage.failure import shown
from p2pz_ray.storage.store import Store

_FORMS = {
    "files": "image file",
    "captioned": "image file",
    "parquet": "Parquet file",
    "arrow": "Arrow file",
    "jsonl": "metadata.jsonl",
    "csv": "metadata.csv",
    "tar": "tar",
}


@dataclass(frozen=True)
class Understood:
    """A collection as it was read. form: what its files are; files, bytes: of those; captions: where they stand, None
    where there are none; captioned: images that have one, None where nobody counted; masks: where they stand; failed:
    images that couldn't be downloaded; left_out: names that are hidden, of another kind or no data."""

    uri: str
    form: str
    files: int
    bytes: int
    images: int
    captions: str | None
    captioned: int | None
    masks: str | None
    failed: int
    left_out: int

    def __str__(self) -> str:
        files = f"{count(self.files, self.form)}, {size(self.bytes)}"
        images = files if self.form == "image file" else f"{count(self.images, 'image')} in {files}"
        captions = "no captions"
        if self.captions is not None:
            number = "" if self.captioned is None else f" of {count(self.captioned, 'image')}"
            missing = 0 if self.captioned is None else self.images - self.failed - self.captioned
            number += f" ({missing:,} without)" if missing else ""
            captions = f"captions{number} from {self.captions}"
        masks = "" if self.masks is None else f"; masks from {shown(self.masks)}"
        failed = f"; {self.failed:,} of the images couldn't be downloaded" if self.failed else ""
        left = (
            f"; {count(self.left_out, 'other name')} left out (hidden, of another kind or no data)"
            if self.left_out
            else ""
        )
        return f"{shown(self.uri)}: {images}; {captions}{masks}{failed}{left}"


def understood(
    uri: str, plan: Plan, columns: Columns, storage_options: dict[str, Any] | None = None, counted: bool = False
) -> Understood:
    """Of a planned collection. counted: whether captions are, for which their column is read whole."""
    extents = [extent for extent in plan.extents if extent.kind != "failed"]
    kind = extents[0].kind if extents else "files"
    files, total = sum(extent.images for extent in extents), sum(extent.bytes for extent in extents)
    parts: list[Partition] = []
    if kind not in ("files", "captioned"):  # there a file is a source, and an image
        parts = [part for part in plan.partitions if part.kind != "failed"]
        sizes = {source.path: source.bytes for part in parts for source in part.sources}
        files, total = len(sizes), sum(sizes.values())
    captions: str | None = None
    captioned: int | None = None
    if kind == "captioned" and columns.caption is not None:
        captions, captioned = "files beside them", sum(extent.captioned for extent in extents)
    elif kind == "tar" and columns.caption is not None:
        captions = f"members .txt or, in .json, {columns.caption!r}"
    elif kind != "files" and columns.caption is not None:
        store, _ = locate(Store(uri, storage_options))
        sources = (source for part in parts for source in part.sources)
        for path, group in groupby(sources, key=lambda source: source.path):
            with TableFile(store, path, kind, columns) as table:
                if table.caption_column is None:
                    continue
                captions = f"the column {table.caption_column!r}"
                if not counted:
                    break
                captioned = (captioned or 0) + sum(caption is not None for caption in _captions(table, group))
    masks = None if columns.mask is None else f"the {'member' if kind == 'tar' else 'column'} {columns.mask!r}"
    return Understood(
        uri=uri,
        form=_FORMS[kind],
        files=files,
        bytes=total,
        images=plan.images,
        captions=captions,
        captioned=captioned,
        masks=columns.masks or masks,
        failed=sum(extent.images for extent in plan.extents if extent.kind == "failed"),
        left_out=plan.skipped,
    )


def _captions(table: TableFile, sources: Iterator[Source]) -> Iterator[str | None]:
    for source in sources:
        yield from table.captions(source.piece, source.start, source.stop)
