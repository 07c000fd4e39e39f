"""One interface to Parquet and Arrow IPC files: pieces of rows, read a few rows at a time."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.ipc

from p2pz_ray.collection.cells import pictures, texts
from p2pz_ray.collection.forms.metadata import resolve_columns, rows
from p2pz_ray.collection.schema import Columns, check_schema
from p2pz_ray.collection.table_format import BATCH_ROWS, UNREADABLE, ArrowFile, ArrowStream, ParquetRows, Rows
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.failure import shown
from p2pz_ray.storage.remote_file import RemoteFile
from p2pz_ray.storage.store import Store

PROBLEM = "error_message"
"""The column in which img2dataset says why a picture is missing."""

# A single repeated picture can compress to almost nothing, but a row count beyond this limit is damage, and iterating
# over so many rows could take for ever.
_ROWS_PER_BYTE = 1000
_ARROW_FILE = b"ARROW1"


@dataclass(frozen=True)
class Row:
    """One row of the file; values that are null or have no column are None."""

    id: str | None
    data: bytes | None
    path: str | None
    caption: str | None
    mask: bytes | None = None
    mask_path: str | None = None
    problem: str | None = None
    conditions: tuple[tuple[bytes | None, str | None], ...] = ()


def table_version(store: Store, path: str, kind: str) -> str:
    """A string that changes when a table does. Parquet and Arrow files have an index at their end to take it from; CSV
    and JSON lines have none."""
    return store.contents(path) if kind in ("parquet", "arrow") else store.fingerprint(path)


class TableFile:
    """An open Parquet or Arrow IPC file (file or stream format) whose columns have been checked; a context manager.

    Each read continues where the last one stopped: if rows are asked for in order, the bytes of a piece are read once,
    however many calls it takes.

    version: the file's `table_version`, if known; then its bytes are the first thing that is asked of the storage.

    Raises `ConfigError`, naming the file, if it isn't of the kind that its name says or its columns don't fit;
    `StorageError` if the storage fails; `ChangedFileError` if the storage has another version of the file.
    """

    def __init__(self, store: Store, path: str, kind: str, columns: Columns, version: str = "") -> None:
        self.name = shown(store.name(path))
        self._file = store.open(path, version)
        self.size = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        try:
            with self._reading():
                self._reader = self._open(kind, store.local)
                self._present = set(self._reader.schema.names)  # a damaged name may not even be text
            self._columns, by_path = resolve_columns(columns, self._reader.schema)
            self._folder = f"{posixpath.dirname(path)}/".lstrip("/") if by_path else ""
            check_schema(self._reader.schema, self.name, self._columns)
        except UNREADABLE as error:
            self._file.close()
            raise self._broken(error) from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def pieces(self) -> Iterator[int]:
        """The number of rows of each row group or record batch, in order. A file without an index is read once if a
        piece is used before the next one is asked for.

        Raises `ConfigError` if the file is cut off or its row counts can't be true.
        """
        wanted = [self._columns.id] if self._columns.id in self._present else []
        pieces, total = self._reader.pieces(wanted), 0
        while True:
            try:
                with self._reading():
                    rows = next(pieces, None)
            except UNREADABLE as error:
                raise self._broken(error) from error
            if rows is None:
                return
            total += max(0, rows)
            if rows < 0 or total > self.size * _ROWS_PER_BYTE:
                raise self._broken(ValueError(f"it claims {total:,} rows in {self.size:,} bytes"))
            yield rows

    @property
    def caption_column(self) -> str | None:
        """The column of captions, or None if there is none."""
        return self._columns.caption if self._columns.caption in self._present else None

    def ids(self, piece: int, start: int, stop: int) -> list[str | None]:
        """The ids of some rows of a piece, None where there are none or they can't be read."""
        ids = self._texts(self._columns.id, piece, start, stop)
        return [None if id is None else f"{self._folder}{id}" for id in ids]

    def captions(self, piece: int, start: int, stop: int) -> list[str | None]:
        """The captions of some rows of a piece, None where there are none."""
        return self._texts(self._columns.caption, piece, start, stop)

    def _texts(self, column: str | None, piece: int, start: int, stop: int) -> list[str | None]:
        # Start at a batch boundary, so that the same part of a broken column is readable for every range of rows.
        aligned = start - start % BATCH_ROWS
        values: list[str | None] = []
        if column is not None and column in self._present:
            with suppress(*UNREADABLE), self._reading():
                for batch in self._reader.read(piece, aligned, stop, [column]):
                    values += texts(batch.column(0))
        return (values + [None] * (stop - aligned - len(values)))[start - aligned :]

    def rows(self, piece: int, start: int, stop: int) -> Iterator[Row]:
        """Some rows of a piece, a few in memory at a time. Raises one of `UNREADABLE` if the file is broken."""
        columns = self._columns
        wanted = (columns.id, columns.image, columns.caption, columns.mask, PROBLEM, *columns.conditions)
        names = [name for name in wanted if name is not None and name in self._present]
        with self._reading():
            for batch in self._reader.read(piece, start, stop, list(dict.fromkeys(names))):
                nothing = pa.nulls(batch.num_rows)
                part = {name: batch.column(name) for name in batch.schema.names}
                data, paths = pictures(part[columns.image], self._type(columns.image))
                masks, mask_paths = [nothing.to_pylist()] * 2
                if columns.mask is not None:
                    masks, mask_paths = pictures(part[columns.mask], self._type(columns.mask))
                others = [zip(*pictures(part[name], self._type(name)), strict=True) for name in columns.conditions]
                conditions = list(zip(*others, strict=True)) if others else [()] * batch.num_rows
                ids = texts(part.get(columns.id, nothing))
                captions = texts(part.get(columns.caption or "", nothing))
                problems = self._problems(batch)
                for id, *rest in zip(ids, data, paths, captions, masks, mask_paths, problems, conditions, strict=True):
                    yield Row(None if id is None else f"{self._folder}{id}", *rest)

    def _problems(self, batch: pa.RecordBatch) -> list[str | None]:
        """img2dataset's reasons why pictures are missing."""
        if PROBLEM not in batch.schema.names:
            return [None] * batch.num_rows
        return texts(batch.column(PROBLEM))

    def _type(self, name: str) -> pa.DataType:
        return self._reader.schema.field(name).type

    def _open(self, kind: str, local: bool) -> ParquetRows | ArrowFile | ArrowStream | Rows:
        if kind in ("jsonl", "csv"):
            return Rows(rows(self._file.read(), kind))
        if kind == "parquet":
            return ParquetRows(self._file)
        if self._file.read(len(_ARROW_FILE)) == _ARROW_FILE:
            return ArrowFile(self._file, local)
        return ArrowStream(self._file, local)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Arrow can report an outage as a broken file: raise the storage's own error if there was one."""
        try:
            yield
        except UNREADABLE as error:
            if isinstance(self._file, RemoteFile) and self._file.failure:
                raise self._file.failure from error
            raise

    def _broken(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.name} isn't a readable table ({first_line(error)}): write it again or leave it out.")
