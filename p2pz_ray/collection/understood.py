"""What was understood of a collection, in one line, before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from p2pz_ray.amount import count, size
from p2pz_ray.collection.failure import shown
from p2pz_ray.collection.listing import locate
from p2pz_ray.collection.partition import Plan, Source
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.store import Store
from p2pz_ray.collection.table import TableFile

_FORMS = {"files": "image file", "parquet": "Parquet file", "arrow": "Arrow file"}


@dataclass(frozen=True)
class Understood:
    """A collection as it was read. form: what its files are; files, bytes: of those; captions: the column that they
    stand in, None where there are none; captioned: images that have one, None where nobody counted; masks: their
    column; left_out: names that are hidden or of another kind."""

    uri: str
    form: str
    files: int
    bytes: int
    images: int
    captions: str | None
    captioned: int | None
    masks: str | None
    left_out: int

    def __str__(self) -> str:
        files = f"{count(self.files, self.form)}, {size(self.bytes)}"
        images = files if self.form == "image file" else f"{count(self.images, 'image')} in {files}"
        captions = "no captions"
        if self.captions is not None:
            number = "" if self.captioned is None else f" of {count(self.captioned, 'image')}"
            captions = f"captions{number} from {self.captions!r}"
        masks = "" if self.masks is None else f"; masks from {self.masks!r}"
        left = f"; {count(self.left_out, 'other name')} left out" if self.left_out else ""
        return f"{shown(self.uri)}: {images}; {captions}{masks}{left}"


def understood(
    uri: str, plan: Plan, columns: Columns, storage_options: dict[str, Any] | None = None, counted: bool = False
) -> Understood:
    """Of a planned collection. counted: whether captions are, for which their column is read whole."""
    kind = plan.partitions[0].kind
    files = {source.path: _bytes(source) for part in plan.partitions for source in part.sources}
    captions, captioned = None, 0
    if kind != "files" and columns.caption is not None:
        store, _ = locate(Store(uri, storage_options))
        sources = (source for part in plan.partitions for source in part.sources)
        for path, group in groupby(sources, key=lambda source: source.path):
            with TableFile(store, path, kind, columns) as table:
                if not table.has(columns.caption):
                    continue
                captions = columns.caption
                if not counted:
                    break
                captioned += sum(caption is not None for caption in _captions(table, group))
    return Understood(
        uri=uri,
        form=_FORMS[kind],
        files=len(files),
        bytes=sum(files.values()),
        images=plan.images,
        captions=captions,
        captioned=captioned if counted else None,
        masks=columns.mask,
        left_out=plan.skipped,
    )


def _captions(table: TableFile, sources: Iterator[Source]) -> Iterator[str | None]:
    for source in sources:
        yield from table.captions(source.piece, source.start, source.stop)


def _bytes(source: Source) -> int:
    """A file's size, with which its fingerprint begins."""
    number = source.fingerprint.partition("-")[0]
    return int(number) if number.isdigit() else 0
