"""The rows that one partition becomes: for each image and each edit exactly one, whatever went wrong with it."""

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from p2pz_ray.collection.schema import pairs_schema, table_bytes
from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.seed import image_seed

SENTENCE = "The safety checker flagged it."


class Pairs:
    """The pairs of one partition in the order of its images, filled in any order and turned into Parquet.

    `edits` are the names of the edits, `format` how pictures are encoded (it names the pictures' paths), `masks`
    whether there is a column of them, `conditions` how many columns of conditions' pictures.
    """

    def __init__(
        self,
        edits: Sequence[str],
        run_seed: int,
        format: Literal["png", "jpeg", "webp"],
        masks: bool = False,
        conditions: int = 0,
    ) -> None:
        self.edits = tuple(edits)
        self.run_seed = run_seed
        self.format = format
        self.masks = masks
        self.conditions = conditions
        self.failures: list[tuple[str, str]] = []
        """Ids of images that went wrong, all or some of their edits, and the sentences that say why."""
        self.failed = 0
        """Rows that are error rows."""
        self.flagged = 0
        """Rows whose picture a safety checker flagged."""
        self._rows: dict[int, list[dict[str, Any]]] = {}

    @classmethod
    def of(cls, config: TranslateConfig) -> "Pairs":
        """Pairs with the edits and columns of a run."""
        format = config.output_format
        conditions = len(config.conditions) if format.conditions else 0
        return cls(list(config.edits), config.seed, format.format, format.masks, conditions)

    @property
    def images(self) -> int:
        return len(self._rows)

    def add(
        self,
        row: int,
        id: str,
        caption: str | None,
        source: bytes,
        edited: Sequence[bytes | None],
        faults: Sequence[str | None] = (),
        masks: Sequence[bytes | None] = (),
        flags: Sequence[bool] = (),
        conditions: Sequence[bytes] = (),
    ) -> None:
        """Image number `row` of the partition was edited: its encoded source and one encoded picture an edit; or for an
        edit that went wrong no picture, and the sentence that says why in `faults`. `masks` are PNG, one an edit, and
        so are `conditions`, one a condition. Where one of `flags` is True a safety checker flagged the edit, and the
        picture is what is to be kept of it."""
        said = faults or [None] * len(self.edits)
        found = masks or [None] * len(self.edits)
        seen = [flag and fault is None for flag, fault in zip(flags or [False] * len(said), said, strict=True)]
        shown = {
            f"condition_{i}": {"bytes": picture, "path": f"condition_{i}.png"}
            for i, picture in enumerate(conditions[: self.conditions], start=1)
        }
        self._rows[row] = [
            self._row(
                id, edit, caption, source, picture if fault is None else None, SENTENCE if flag else fault, mask, flag
            )
            | shown
            for edit, picture, fault, mask, flag in zip(self.edits, edited, said, found, seen, strict=True)
        ]
        self.flagged += sum(seen)
        self.failures += [(id, sentence) for sentence in dict.fromkeys(said) if sentence is not None]
        self.failed += sum(fault is not None for fault in said)

    def fail(self, row: int, id: str, sentence: str, caption: str | None = None, source: bytes | None = None) -> None:
        """Image number `row` of the partition went wrong; `source` is kept where it could be read."""
        self._rows[row] = [self._row(id, edit, caption, source, error=sentence) for edit in self.edits]
        self.failures.append((id, sentence))
        self.failed += len(self.edits)

    def to_parquet(self, metadata: dict[str, str]) -> bytes:
        """All rows, as a Parquet file whose schema carries `metadata`."""
        return table_bytes(self.to_table(metadata))

    def to_table(self, metadata: dict[str, str]) -> pa.Table:
        """All rows; `metadata` stands in the schema."""
        rows = [pair for number in sorted(self._rows) for pair in self._rows[number]]
        return pa.Table.from_pylist(rows, pairs_schema(metadata, self.masks, self.conditions))

    def _row(
        self,
        id: str,
        edit: str,
        caption: str | None,
        source: bytes | None,
        picture: bytes | None = None,
        error: str | None = None,
        mask: bytes | None = None,
        flagged: bool = False,
    ) -> dict[str, Any]:
        return {
            "id": id,
            "edit": edit,
            "status": "flagged" if flagged else "ok" if error is None else "error",
            "error": error,
            "source_image": None if source is None else {"bytes": source, "path": f"source.{self.format}"},
            "edited_image": None if picture is None else {"bytes": picture, "path": f"{edit}.{self.format}"},
            "caption": caption,
            "seed": image_seed(self.run_seed, id),
            "mask": None if mask is None else {"bytes": mask, "path": f"{edit}-mask.png"},
        }
