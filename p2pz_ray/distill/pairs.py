"""The training pairs: from runs, with their scores, or from tables with two pictures per row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.collection.schema import Columns, check_schema
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config.distill import PairsConfig
from p2pz_ray.distill.condition import Condition
from p2pz_ray.distill.taught import parts_of_run
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.store import Store
from p2pz_ray.student.repertoire import Parts

BATCH_ROWS = 32
_BROKEN = (pa.ArrowException, OSError, ValueError)
# A run's own columns that a filter can use.
_PLAIN = ("id", "edit", "status", "caption")


@dataclass(frozen=True)
class Candidate:
    """A pair before its pictures are read: its place and its values."""

    place: tuple[int, str, int]  # number of the run or table, file, row
    values: dict[str, Any]
    parts: Parts  # the edits that it shows, and their strengths; {} where they are unknown

    @property
    def id(self) -> str:
        return str(self.values["id"])


class PairSource:
    """All pairs that a configuration names. Raises ConfigError where a run or table holds none."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config
        self.dropped: dict[str, int] = {}
        """Condition → pairs left out because they don't meet it, in order."""
        self.total = 0
        """Pairs of the chosen edits, before any are left out."""
        uris = config.runs or config.tables
        self._stores = [Store(uri, config.storage_options) for uri in uris]
        named = config.columns
        self._pictures = ("source_image", "edited_image") if config.runs else (named.source, named.edited)

    def candidates(self) -> list[Candidate]:
        """The pairs with status ok that pass the filter, in an order that depends only on the files."""
        candidates: list[Candidate] = []
        for number, store in enumerate(self._stores):
            candidates += self._of_run(number, store) if self.config.runs else self._of_table(number, store)
        if not candidates:
            where = ", ".join(store.uri for store in self._stores)
            raise ConfigError(f"{where} holds no pairs yet: run p2pz translate first.")
        candidates = self._of_edit(candidates)
        self.total = len(candidates)
        candidates = self._keep(
            "status is ok", candidates, [candidate.values.get("status", "ok") == "ok" for candidate in candidates]
        )
        if self.config.filter is None or not candidates:
            return candidates
        columns = sorted({name for candidate in candidates for name in candidate.values})
        try:
            table = pa.table({name: [candidate.values.get(name) for candidate in candidates] for name in columns})
        except pa.ArrowException as error:
            raise ConfigError(
                f"The scores of {self.config.runs} have different types ({first_line(error)})."
            ) from error
        rows = np.arange(len(candidates))
        for text, passes in Condition(self.config.filter).passed(table):
            kept = passes[rows]
            self.drop(text, int((~kept).sum()))
            rows = rows[kept]
        return [candidates[row] for row in rows]

    def pictures(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, bytes | None, bytes | None]]:
        """Each candidate with its encoded source and edited picture, or None; a few in memory at a time."""
        by_file: dict[tuple[int, str], dict[int, Candidate]] = {}
        for candidate in candidates:
            by_file.setdefault(candidate.place[:2], {})[candidate.place[2]] = candidate
        for (number, file), rows in by_file.items():
            start = 0
            for batch in self._batches(self._stores[number], file, list(self._pictures)):
                chosen = [row for row in range(start, start + batch.num_rows) if row in rows]
                columns = [batch.column(name) for name in self._pictures]
                for row in chosen:
                    source, edited = (_bytes(column[row - start].as_py()) for column in columns)
                    yield rows[row], source, edited
                start += batch.num_rows

    def drop(self, reason: str, count: int = 1) -> None:
        """Count pairs that are left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def _keep(self, reason: str, candidates: list[Candidate], passes: Sequence[bool]) -> list[Candidate]:
        self.drop(reason, len(candidates) - sum(passes))
        return [candidate for candidate, kept in zip(candidates, passes, strict=True) if kept]

    def _of_edit(self, candidates: list[Candidate]) -> list[Candidate]:
        """All candidates, or those of the configured edit: by the run's name for it, or at all its strengths."""
        edit = self.config.edit
        if edit is None:
            return candidates
        kept = [
            candidate
            for candidate in candidates
            if candidate.values.get("edit") == edit or list(candidate.parts) == [edit]
        ]
        if not kept:
            edits = sorted(
                {str(candidate.values["edit"]) for candidate in candidates if candidate.values.get("edit") is not None}
            )
            raise ConfigError(f"pairs.edit is {edit}, but the pairs are of {', '.join(edits) or 'no edit'}.")
        return kept

    @property
    def folders(self) -> list[RunFolder]:
        """The runs; [] where the pairs come from tables."""
        return [RunFolder(uri, self.config.storage_options) for uri in self.config.runs]

    def _of_run(self, number: int, store: Store) -> Iterator[Candidate]:
        folder = RunFolder(store.uri, self.config.storage_options)
        plan = folder.plan()
        if plan is None:
            raise ConfigError(f"{store.uri} is not a run: it has no plan.json, so give the output of p2pz translate.")
        scores, parts_of = self._scores(store), parts_of_run(folder)
        for manifest in folder.manifests(plan.ids).values():
            row = 0
            for batch in self._batches(store, manifest.file, list(_PLAIN)):
                for values in batch.to_pylist():
                    pair_scores = scores.get((values["id"], values["edit"]), {})
                    parts = parts_of.get(values["edit"], {values["edit"]: 1.0})
                    strength = {"strength": max(parts.values())}  # so that a filter can use it
                    yield Candidate((number, manifest.file, row), pair_scores | values | strength, parts)
                    row += 1

    def _scores(self, store: Store) -> dict[tuple[str, str], dict[str, Any]]:
        """(id, edit) → scores, merged from all score files; {} for a run without scores."""
        scores: dict[tuple[str, str], dict[str, Any]] = {}
        for name in store.list("scores"):
            if not name.endswith(".parquet"):
                continue
            file = f"scores/{name}"
            for batch in self._batches(store, file, None):
                if not {"id", "edit"} <= set(batch.schema.names):
                    raise ConfigError(f"{store.name(file)} has no columns id and edit: run p2pz evaluate again.")
                for values in batch.to_pylist():
                    scores.setdefault((values["id"], values["edit"]), {}).update(values)
        return scores

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
        """The columns of a table that a filter can use, including the id."""
        name, columns = store.name(file), self.config.columns
        with store.open(file) as opened:
            try:
                schema = pq.ParquetFile(opened).schema_arrow
            except _BROKEN as error:
                raise _unreadable(name, error) from error
        for picture in self._pictures:
            check_schema(schema, name, Columns(id=columns.id, image=picture))
        if columns.id not in schema.names:
            raise ConfigError(f"{name} has no column {columns.id}: set pairs.columns.id to one of {schema.names}.")
        excluded = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
        return [field.name for field in schema if not any(test(field.type) for test in excluded)]

    def _batches(self, store: Store, file: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        with store.open(file) as opened:
            try:
                yield from pq.ParquetFile(opened).iter_batches(BATCH_ROWS, columns=columns)
            except _BROKEN as error:
                raise _unreadable(store.name(file), error) from error


def _unreadable(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name} can't be read ({first_line(error)}): leave it out or write it again.")


def _bytes(value: Any) -> bytes | None:
    """The bytes of a struct<bytes, path>, or plain bytes; None where they are missing or empty."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) and data else None
