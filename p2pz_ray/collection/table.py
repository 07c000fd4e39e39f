"""Parquet and Arrow IPC files as the same thing: pieces of rows, read a few rows at a time."""

from __future__ import annotations

import io
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
from p2pz_ray.collection.forms.metadata import as_named, rows
from p2pz_ray.collection.schema import Columns, check_schema, is_bytes
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.failure import shown
from p2pz_ray.storage.remote_file import RemoteFile
from p2pz_ray.storage.store import Store

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
_WHOLE_BYTES = 4 * _BUFFER_BYTES
"""Of a row group up to which it is fetched whole."""
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

    It goes on reading where it stopped: asked for rows in their order, it reads the bytes of a piece once, however
    many calls share it.

    version: its `table_version`, where that is known; then nothing else is asked of the storage before its bytes.

    Raises `ConfigError`, naming the file, if it isn't what its name says or its columns don't fit;
    `StorageError` if the storage fails, `ChangedFileError` where the storage finds it to be of another version.
    """

    def __init__(self, store: Store, path: str, kind: str, columns: Columns, version: str = "") -> None:
        self.name = shown(store.name(path))
        self._file = store.open(path, version)
        self.size = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
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
        self.close()

    def close(self) -> None:
        self._file.close()

    def pieces(self) -> Iterator[int]:
        """Rows of each row group or record batch, in order. What is asked of a piece before the next one costs no
        further look at a file without an index.

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
            if rows < 0 or total > self.size * _ROWS_A_BYTE:
                raise self._broken(ValueError(f"it claims {total:,} rows in {self.size:,} bytes"))
            yield rows

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
    """Small row groups are fetched whole, in as few requests as may be; of large ones the columns in steps."""

    def __init__(self, file: BinaryIO) -> None:
        source = pa.PythonFile(file, mode="r")
        self._steps = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        self._whole = pq.ParquetFile(source, metadata=self._steps.metadata, pre_buffer=True)
        self.schema: pa.Schema = self._steps.schema_arrow
        self._at: tuple[int, list[str]] | None = None  # what is being read: a row group and columns,
        self._batches: Iterator[pa.RecordBatch] = iter(())  # what comes of it,
        self._batch, self._first = _nothing(), 0  # and the last of that with the row at which it begins

    def pieces(self, names: list[str]) -> Iterator[int]:
        metadata = self._steps.metadata
        return (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._at != (piece, names) or start < self._first:
            file = self._whole if self._bytes(piece) <= _WHOLE_BYTES else self._steps
            self._batches = file.iter_batches(BATCH_ROWS, row_groups=[piece], columns=names, use_threads=False)
            self._at, self._batch, self._first = (piece, names), _nothing(), 0
        try:
            while True:
                yield from _part(self._batch, start - self._first, stop - self._first)
                end = self._first + self._batch.num_rows
                if end >= stop:
                    return
                following = next(self._batches, None)
                if following is None:
                    raise ValueError(f"row group {piece} ends after {end} of {stop} rows")
                self._batch, self._first = following, end
        except UNREADABLE:
            self._at = None
            raise

    def _bytes(self, piece: int) -> int:
        group = self._steps.metadata.row_group(piece)
        return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


class _Rows:
    """Rows that are all in memory: the small tables that describe pictures beside them."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self.schema: pa.Schema = table.schema

    def pieces(self, names: list[str]) -> Iterator[int]:
        return iter([self._table.num_rows])

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._table.num_rows < stop:
            raise ValueError(f"it has {self._table.num_rows} of {stop} rows")
        for batch in self._table.slice(start, stop - start).select(names).to_batches():
            yield from _part(batch, 0, batch.num_rows)


class _ArrowFile:
    def __init__(self, file: BinaryIO, local: bool) -> None:
        self._file, self._local = file, local
        self.schema: pa.Schema = pa.ipc.open_file(_source(file, local)).schema
        self._names: list[str] | None = None
        self._reader: Any = None
        self._at, self._batch = -1, _nothing()

    def pieces(self, names: list[str]) -> Iterator[int]:
        # A batch's rows are only known from the batch: read of it what is wanted, or else its narrowest column.
        narrow = [field.name for field in self.schema if not pa.types.is_nested(field.type)]
        narrow.sort(key=lambda name: is_bytes(self.schema.field(name).type))
        self._open(names or narrow[:1])
        for piece in range(self._reader.num_record_batches):
            yield self._held(piece, names or narrow[:1]).num_rows

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        batch = self._held(piece, names)
        if batch.num_rows < stop:
            raise ValueError(f"record batch {piece} has {batch.num_rows} of {stop} rows")
        yield from _part(batch.select(names), start, stop)

    def _held(self, piece: int, names: list[str]) -> pa.RecordBatch:
        if self._names != names:
            self._open(names)
        if self._at != piece:
            self._batch, self._at = _nothing(), -1  # two of them needn't be in memory
            self._batch, self._at = self._reader.get_batch(piece), piece
        return self._batch

    def _open(self, names: list[str]) -> None:
        options = _fields(self.schema, names)
        self._reader = pa.ipc.open_file(_source(self._file, self._local), options=options)
        self._names, self._at = names, -1


class _ArrowStream:
    """The stream format (what `datasets` saves) has no index: it is read from front to back, and what lies before a
    batch must be read past."""

    def __init__(self, file: BinaryIO, local: bool) -> None:
        self._file, self._local = file, local
        self.schema: pa.Schema = pa.ipc.open_stream(_source(file, local)).schema
        self._names: list[str] | None = None
        self._stream: Any = None
        self._at, self._batch = -1, _nothing()

    def pieces(self, names: list[str]) -> Iterator[int]:
        self._open(names or self.schema.names[:1])
        while self._advance():
            yield self._batch.num_rows

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._names != names or self._at > piece:
            self._open(names)
        while self._at < piece:
            if not self._advance():
                raise ValueError(f"it ends before record batch {piece}")
        if self._batch.num_rows < stop:
            raise ValueError(f"record batch {piece} has {self._batch.num_rows} of {stop} rows")
        yield from _part(self._batch.select(names), start, stop)

    def _open(self, names: list[str]) -> None:
        options = _fields(self.schema, names)
        self._stream = pa.ipc.open_stream(_source(self._file, self._local), options=options)
        self._names, self._at, self._batch = names, -1, _nothing()

    def _advance(self) -> bool:
        """Read the next batch; False at the end."""
        self._batch = _nothing()
        try:
            self._batch = self._stream.read_next_batch()
        except StopIteration:
            self._names = None
            return False
        except UNREADABLE:
            self._names = None  # what comes after it stands at no known place
            raise
        self._at += 1
        return True


def _nothing() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([], names=[])


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
