"""The pairs to learn from: those of runs, with their scores, or of tables with two pictures a row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.collection.manifest import RunFolder
from p2pz_ray.collection.schema import Columns, check_schema
from p2pz_ray.collection.store import Store
from p2pz_ray.distill.condition import Condition
from p2pz_ray.distill.config import PairsConfig
from p2pz_ray.distill.taught import parts_of_run
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.student.repertoire import Parts

BATCH_ROWS = 32
_BROKEN = (pa.ArrowException, OSError, ValueError)
# Of a run's own columns, what a filter can ask for.
_PLAIN = ("id", "edit", "status", "caption")


@dataclass(frozen=True)
class Candidate:
    """A pair before its pictures are read: where it stands, and what is known of it."""

    place: tuple[int, str, int]  # number of the run or table, file, row
    values: dict[str, Any]
    parts: Parts  # the edits that it shows, and their strengths; {} where nobody says

    @property
    def id(self) -> str:
        return str(self.values["id"])


class PairSource:
    """All pairs that a configuration names. Raises ConfigError for what holds none."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config
        self.dropped: dict[str, int] = {}
        """What pairs were left out for not keeping, and how many for each, in order."""
        self.total = 0
        """Pairs of the edits, before any was left out."""
        uris = config.runs or config.tables
        self._stores = [Store(uri, config.storage_options) for uri in uris]
        named = config.columns
        self._pictures = ("source_image", "edited_image") if config.runs else (named.source, named.edited)

    def candidates(self) -> list[Candidate]:
        """The pairs that went well and pass the filter, in an order that depends on nothing but the files."""
        found: list[Candidate] = []
        for number, store in enumerate(self._stores):
            found += self._of_run(number, store) if self.config.runs else self._of_table(number, store)
        if not found:
            where = ", ".join(store.uri for store in self._stores)
            raise ConfigError(f"{where} holds no pairs yet: run p2pz translate first.")
        found = self._of_edit(found)
        self.total = len(found)
        found = self._keep("status is ok", found, [one.values.get("status", "ok") == "ok" for one in found])
        if self.config.filter is None or not found:
            return found
        columns = sorted({name for one in found for name in one.values})
        try:
            table = pa.table({name: [one.values.get(name) for one in found] for name in columns})
        except pa.ArrowException as error:
            raise ConfigError(f"The scores of {self.config.runs} disagree in a type ({first_line(error)}).") from error
        rows = np.arange(len(found))
        for text, held in Condition(self.config.filter).passed(table):
            kept = held[rows]
            self.drop(text, int((~kept).sum()))
            rows = rows[kept]
        return [found[row] for row in rows]

    def pictures(self, wanted: Sequence[Candidate]) -> Iterator[tuple[Candidate, bytes | None, bytes | None]]:
        """The encoded source and edited picture of each, None where there is none; a few in memory at a time."""
        at: dict[tuple[int, str], dict[int, Candidate]] = {}
        for one in wanted:
            at.setdefault(one.place[:2], {})[one.place[2]] = one
        for (number, file), rows in at.items():
            start = 0
            for batch in self._batches(self._stores[number], file, list(self._pictures)):
                here = [row for row in range(start, start + batch.num_rows) if row in rows]
                columns = [batch.column(name) for name in self._pictures]
                for row in here:
                    source, edited = (_bytes(column[row - start].as_py()) for column in columns)
                    yield rows[row], source, edited
                start += batch.num_rows

    def drop(self, reason: str, count: int = 1) -> None:
        """Count pairs that are left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def _keep(self, reason: str, found: list[Candidate], held: Sequence[bool]) -> list[Candidate]:
        self.drop(reason, len(found) - sum(held))
        return [one for one, kept in zip(found, held, strict=True) if kept]

    def _of_edit(self, found: list[Candidate]) -> list[Candidate]:
        """All of them, or those of the one edit that is named, as the run has it or at all its strengths."""
        wanted = self.config.edit
        if wanted is None:
            return found
        kept = [one for one in found if one.values.get("edit") == wanted or list(one.parts) == [wanted]]
        if not kept:
            edits = sorted({str(one.values["edit"]) for one in found if one.values.get("edit") is not None})
            raise ConfigError(f"pairs.edit is {wanted}, and the pairs are of {', '.join(edits) or 'no edit'}.")
        return kept

    @property
    def folders(self) -> list[RunFolder]:
        """The runs; [] where the pairs are of tables."""
        return [RunFolder(uri, self.config.storage_options) for uri in self.config.runs]

    def _of_run(self, number: int, store: Store) -> Iterator[Candidate]:
        folder = RunFolder(store.uri, self.config.storage_options)
        plan = folder.plan()
        if plan is None:
            raise ConfigError(f"{store.uri} is not a run: it has no plan.json, so give the output of p2pz translate.")
        scores, shown = self._scores(store), parts_of_run(folder)
        for manifest in folder.manifests(plan.ids).values():
            row = 0
            for batch in self._batches(store, manifest.file, list(_PLAIN)):
                for values in batch.to_pylist():
                    known = scores.get((values["id"], values["edit"]), {})
                    parts = shown.get(values["edit"], {values["edit"]: 1.0})
                    strength = {"strength": max(parts.values())}  # so that a filter may ask less of weak edits
                    yield Candidate((number, manifest.file, row), known | values | strength, parts)
                    row += 1

    def _scores(self, store: Store) -> dict[tuple[str, str], dict[str, Any]]:
        """(id, edit) → scores, of all files of scores together; {} for a run without."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for name in store.list("scores"):
            if not name.endswith(".parquet"):
                continue
            file = f"scores/{name}"
            for batch in self._batches(store, file, None):
                if not {"id", "edit"} <= set(batch.schema.names):
                    raise ConfigError(f"{store.name(file)} has no columns id and edit: run p2pz evaluate again.")
                for values in batch.to_pylist():
                    found.setdefault((values["id"], values["edit"]), {}).update(values)
        return found

    def _of_table(self, number: int, store: Store) -> Iterator[Candidate]:
        files = [""]
        if store.is_folder(""):
            files = [name for name in store.list() if name.endswith(".parquet")]
        for file in files:
            plain = self._plain_columns(store, file)
            row = 0
            for batch in self._batches(store, file, plain):
                for values in batch.to_pylist():
                    edit = values.get("edit")
                    parts = {} if edit is None else {str(edit): float(values.get("strength") or 1.0)}
                    yield Candidate((number, file, row), values | {"id": values[self.config.columns.id]}, parts)
                    row += 1

    def _plain_columns(self, store: Store, file: str) -> list[str]:
        """The columns of a table that a filter can ask for, its id's among them."""
        name, named = store.name(file), self.config.columns
        with store.open(file) as opened:
            try:
                schema = pq.ParquetFile(opened).schema_arrow
            except _BROKEN as error:
                raise _unreadable(name, error) from error
        for picture in self._pictures:
            check_schema(schema, name, Columns(id=named.id, image=picture))
        if named.id not in schema.names:
            raise ConfigError(f"{name} has no column {named.id}: set pairs.columns.id to one of {schema.names}.")
        held = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
        return [field.name for field in schema if not any(test(field.type) for test in held)]

    def _batches(self, store: Store, file: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        with store.open(file) as opened:
            try:
                yield from pq.ParquetFile(opened).iter_batches(BATCH_ROWS, columns=columns)
            except _BROKEN as error:
                raise _unreadable(store.name(file), error) from error


def _unreadable(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name} can't be read ({first_line(error)}): leave it out or write it again.")


def _bytes(value: Any) -> bytes | None:
    """Of a struct<bytes, path> or of bytes themselves."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) and found else None
