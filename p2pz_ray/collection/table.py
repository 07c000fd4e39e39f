"""Parquet and Arrow IPC files as the same thing: pieces of rows, read a few rows at a time."""

from __future__ import annotations

import mmap
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from p2pz_ray.collection.cells import pictures, plain, texts
from p2pz_ray.collection.failure import shown
from p2pz_ray.collection.forms.metadata import as_named, rows
from p2pz_ray.collection.schema import Columns, check_schema, is_bytes
from p2pz_ray.collection.store import RemoteFile, Store
from p2pz_ray.errors import ConfigError, first_line

PROBLEM = "error_message"
"""The column in which img2dataset says why a picture isn't there."""
BATCH_ROWS = 16
"""Rows read at a time: memory holds a few pictures, not a row group of them."""

# What Arrow raises for broken files.
UNREADABLE = (pa.ArrowException, OSError, ValueError, IndexError, KeyError, TypeError, MemoryError)

# One picture repeated may compress to next to nothing, but beyond this a row count is damage, and counting it out
# could take for ever.
_ROWS_A_BYTE = 1000
_BUFFER_BYTES = 4 * 2**20
_ARROW_FILE = b"ARROW1"


@dataclass(frozen=True)
class Row:
    """One row as it stands in the file; what is null or has no column is None."""

    id: str | None
    data: bytes | None
    path: str | None
    caption: str | None
    mask: bytes | None = None
    mask_path: str | None = None
    problem: str | None = None
    conditions: tuple[tuple[bytes | None, str | None], ...] = ()


def table_version(store: Store, path: str, kind: str) -> str:
    """A string that changes when a table does. Parquet and Arrow keep an index at the end, CSV and JSON lines none."""
    return store.contents(path) if kind in ("parquet", "arrow") else store.fingerprint(path)


class TableFile:
    """An open Parquet or Arrow IPC file (file or stream format), checked to be a collection; a context manager.

    Raises `ConfigError`, naming the file, if it isn't what its name says or its columns don't fit;
    `StorageError` if the storage fails.
    """

    def __init__(self, store: Store, path: str, kind: str, columns: Columns) -> None:
        self.name = shown(store.name(path))
        self.size = store.size(path)
        self._file = store.open(path)
        try:
            with self._reading():
                self._reader = self._opened(kind, store.local)
                self._present = set(self._reader.schema.names)  # a damaged one may not even be text
            self._columns, by_path = as_named(columns, self._reader.schema)
            self._above = f"{posixpath.dirname(path)}/".lstrip("/") if by_path else ""
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
        self._file.close()

    def pieces(self) -> list[int]:
        """Rows of each row group or record batch, in order.

        Raises `ConfigError` if the file is cut off or its row counts can't be true.
        """
        try:
            with self._reading():
                pieces = self._reader.pieces()
        except UNREADABLE as error:
            raise self._broken(error) from error
        if sum(pieces) > self.size * _ROWS_A_BYTE or any(rows < 0 for rows in pieces):
            raise self._broken(ValueError(f"it claims {sum(pieces):,} rows in {self.size:,} bytes"))
        return pieces

    @property
    def caption_column(self) -> str | None:
        """The column of captions, None where there is none."""
        return self._columns.caption if self._columns.caption in self._present else None

    def ids(self, piece: int, start: int, stop: int) -> list[str | None]:
        """The ids of some rows of a piece. Where they can't be read, and in a file without them, they are None."""
        found = self._texts(self._columns.id, piece, start, stop)
        return [None if id is None else f"{self._above}{id}" for id in found]

    def captions(self, piece: int, start: int, stop: int) -> list[str | None]:
        """The captions of some rows of a piece, None where there are none."""
        return self._texts(self._columns.caption, piece, start, stop)

    def _texts(self, column: str | None, piece: int, start: int, stop: int) -> list[str | None]:
        # From a whole batch on, so that of a broken column every range of rows finds the same part readable.
        aligned = start - start % BATCH_ROWS
        found: list[str | None] = []
        if column is not None and column in self._present:
            with suppress(*UNREADABLE), self._reading():
                for batch in self._reader.read(piece, aligned, stop, [column]):
                    found += texts(batch.column(0))
        return (found + [None] * (stop - aligned - len(found)))[start - aligned :]

    def rows(self, piece: int, start: int, stop: int) -> Iterator[Row]:
        """Some rows of a piece, a few in memory at a time. Raises one of `UNREADABLE` where the file is broken."""
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
                    yield Row(None if id is None else f"{self._above}{id}", *rest)

    def _problems(self, batch: pa.RecordBatch) -> list[str | None]:
        """Why a picture isn't there, as img2dataset wrote it down."""
        if PROBLEM not in batch.schema.names:
            return [None] * batch.num_rows
        return texts(batch.column(PROBLEM))

    def _type(self, name: str) -> pa.DataType:
        return self._reader.schema.field(name).type

    def _opened(self, kind: str, local: bool) -> _Parquet | _ArrowFile | _ArrowStream | _Rows:
        if kind in ("jsonl", "csv"):
            return _Rows(rows(self._file.read(), kind))
        if kind == "parquet":
            return _Parquet(self._file)
        if self._file.read(len(_ARROW_FILE)) == _ARROW_FILE:
            return _ArrowFile(self._file, local)
        return _ArrowStream(self._file, local)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Arrow may word an outage as a broken file: raise the storage's own error where there was one."""
        try:
            yield
        except UNREADABLE as error:
            if isinstance(self._file, RemoteFile) and self._file.failure:
                raise self._file.failure from error
            raise

    def _broken(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.name} isn't a readable table ({first_line(error)}): write it again or leave it out.")


class _Parquet:
    def __init__(self, file: BinaryIO) -> None:
        # Buffered, a column of a large row group is fetched in steps and not whole.
        self._file = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=_BUFFER_BYTES)
        self.schema: pa.Schema = self._file.schema_arrow

    def pieces(self) -> list[int]:
        metadata = self._file.metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        position = 0
        batches = self._file.iter_batches(BATCH_ROWS, row_groups=[piece], columns=names, use_threads=False)
        for batch in batches:
            yield from _part(batch, start - position, stop - position)
            position += batch.num_rows
            if position >= stop:
                return
        raise ValueError(f"row group {piece} ends after {position} of {stop} rows")


class _Rows:
    """Rows that are all in memory: the small tables that describe pictures beside them."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self.schema: pa.Schema = table.schema

    def pieces(self) -> list[int]:
        return [self._table.num_rows]

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._table.num_rows < stop:
            raise ValueError(f"it has {self._table.num_rows} of {stop} rows")
        for batch in self._table.slice(start, stop - start).select(names).to_batches():
            yield from _part(batch, 0, batch.num_rows)


class _ArrowFile:
    def __init__(self, file: BinaryIO, local: bool) -> None:
        self._file, self._local = file, local
        self._all = pa.ipc.open_file(_source(file, local))
        self.schema: pa.Schema = self._all.schema

    def pieces(self) -> list[int]:
        # A batch's rows are only known from the batch: read its narrowest column.
        narrow = [field.name for field in self.schema if not pa.types.is_nested(field.type)]
        narrow.sort(key=lambda name: is_bytes(self.schema.field(name).type))
        reader = self._only(narrow[:1])
        return [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        batch = self._only(names).get_batch(piece)
        if batch.num_rows < stop:
            raise ValueError(f"record batch {piece} has {batch.num_rows} of {stop} rows")
        yield from _part(batch.select(names), start, stop)

    def _only(self, names: list[str]) -> Any:
        return pa.ipc.open_file(_source(self._file, self._local), options=_fields(self.schema, names))


class _ArrowStream:
    """The stream format (what `datasets` saves) has no index: what lies before a batch must be read past."""

    def __init__(self, file: BinaryIO, local: bool) -> None:
        self._file, self._local = file, local
        self.schema: pa.Schema = pa.ipc.open_stream(_source(file, local)).schema
        self._names: list[str] | None = None
        self._next = 0
        self._stream: Any = None

    def pieces(self) -> list[int]:
        self._names = None
        return [batch.num_rows for batch in pa.ipc.open_stream(_source(self._file, self._local))]

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._names != names or self._next > piece:
            options = _fields(self.schema, names)
            self._stream = pa.ipc.open_stream(_source(self._file, self._local), options=options)
            self._names, self._next = names, 0
        while True:
            batch = self._stream.read_next_batch()
            self._next += 1
            if self._next > piece:
                break
        if batch.num_rows < stop:
            raise ValueError(f"record batch {piece} has {batch.num_rows} of {stop} rows")
        yield from _part(batch.select(names), start, stop)


def _source(file: BinaryIO, local: bool) -> Any:
    """The file from its beginning as Arrow reads it: mapped where local, so that only what is used is read."""
    file.seek(0)
    if local:
        return pa.BufferReader(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return pa.PythonFile(file, mode="r")


def _fields(schema: pa.Schema, names: list[str]) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])


def _part(batch: pa.RecordBatch, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows `start` to `stop` of a batch, as far as it has them, a few at a time and safe to look into."""
    first, last = max(0, start), min(batch.num_rows, stop)
    for row in range(first, last, BATCH_ROWS):
        part = batch.slice(row, min(BATCH_ROWS, last - row))
        # Text becomes bytes first: a caption that isn't UTF-8 must not condemn the rows around it.
        columns = [plain(column) for column in part.columns]
        for column in columns:
            column.validate(full=True)  # offsets in a broken file may point anywhere in memory
        yield pa.RecordBatch.from_arrays(columns, names=part.schema.names)
