"""Parquet, Arrow's file format and Arrow's stream format, each read a few rows at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from p2pz_ray.collection.cells import plain
from p2pz_ray.collection.schema import is_bytes

BATCH_ROWS = 16
"""Rows read at a time: memory holds a few pictures, not a whole row group."""

# The errors that Arrow raises for broken files.
UNREADABLE = (pa.ArrowException, OSError, ValueError, IndexError, KeyError, TypeError, MemoryError)

_BUFFER_BYTES = 4 * 2**20
_WHOLE_BYTES = 4 * _BUFFER_BYTES
"""The size up to which a row group is fetched whole."""


class ParquetRows:
    """A Parquet file. Small row groups are fetched whole, in as few requests as possible; large ones in steps."""

    def __init__(self, file: BinaryIO) -> None:
        source = pa.PythonFile(file, mode="r")
        self._steps = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        self._whole = pq.ParquetFile(source, metadata=self._steps.metadata, pre_buffer=True)
        self.schema: pa.Schema = self._steps.schema_arrow
        self._reading: tuple[int, list[str]] | None = None  # the row group and the columns that are being read
        self._batches: Iterator[pa.RecordBatch] = iter(())  # the batches of that
        self._batch, self._first = _empty(), 0  # the last of those batches, and the index of its first row

    def pieces(self, names: list[str]) -> Iterator[int]:
        metadata = self._steps.metadata
        return (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._reading != (piece, names) or start < self._first:
            file = self._whole if self._bytes(piece) <= _WHOLE_BYTES else self._steps
            self._batches = file.iter_batches(BATCH_ROWS, row_groups=[piece], columns=names, use_threads=False)
            self._reading, self._batch, self._first = (piece, names), _empty(), 0
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
            self._reading = None
            raise

    def _bytes(self, piece: int) -> int:
        group = self._steps.metadata.row_group(piece)
        return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


class Rows:
    """A table that is wholly in memory: the small ones that describe the pictures in their folder."""

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


class ArrowFile:
    """Arrow's file format, which has an index of record batches."""

    def __init__(self, file: BinaryIO, local: bool) -> None:
        self._file, self._local = file, local
        self.schema: pa.Schema = pa.ipc.open_file(_source(file, local)).schema
        self._names: list[str] | None = None
        self._reader: Any = None
        self._at, self._batch = -1, _empty()

    def pieces(self, names: list[str]) -> Iterator[int]:
        # Only a batch itself says how many rows it has: read the columns asked for, or else its narrowest one.
        narrow = [field.name for field in self.schema if not pa.types.is_nested(field.type)]
        narrow.sort(key=lambda name: is_bytes(self.schema.field(name).type))
        self._open(names or narrow[:1])
        for piece in range(self._reader.num_record_batches):
            yield self._load(piece, names or narrow[:1]).num_rows

    def read(self, piece: int, start: int, stop: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        batch = self._load(piece, names)
        if batch.num_rows < stop:
            raise ValueError(f"record batch {piece} has {batch.num_rows} of {stop} rows")
        yield from _part(batch.select(names), start, stop)

    def _load(self, piece: int, names: list[str]) -> pa.RecordBatch:
        if self._names != names:
            self._open(names)
        if self._at != piece:
            self._batch, self._at = _empty(), -1  # so that no two batches are in memory
            self._batch, self._at = self._reader.get_batch(piece), piece
        return self._batch

    def _open(self, names: list[str]) -> None:
        options = _fields(self.schema, names)
        self._reader = pa.ipc.open_file(_source(self._file, self._local), options=options)
        self._names, self._at = names, -1


class ArrowStream:
    """Arrow's stream format, which `datasets` saves. It has no index: it is read from front to back, and to reach a
    batch, everything before it must be read."""

    def __init__(self, file: BinaryIO, local: bool) -> None:
        self._file, self._local = file, local
        self.schema: pa.Schema = pa.ipc.open_stream(_source(file, local)).schema
        self._names: list[str] | None = None
        self._stream: Any = None
        self._at, self._batch = -1, _empty()

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
        self._names, self._at, self._batch = names, -1, _empty()

    def _advance(self) -> bool:
        """Read the next batch; False at the end."""
        self._batch = _empty()
        try:
            self._batch = self._stream.read_next_batch()
        except StopIteration:
            self._names = None
            return False
        except UNREADABLE:
            self._names = None  # the position of whatever follows is unknown
            raise
        self._at += 1
        return True


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([], names=[])


def _source(file: BinaryIO, local: bool) -> Any:
    """The file from its beginning, as Arrow takes it: memory-mapped if local, so that only what is used is read."""
    file.seek(0)
    if local:
        return pa.BufferReader(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return pa.PythonFile(file, mode="r")


def _fields(schema: pa.Schema, names: list[str]) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])


def _part(batch: pa.RecordBatch, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """The rows of a batch from `start` to `stop`, as far as it has them, a few at a time and safe to read."""
    first, last = max(0, start), min(batch.num_rows, stop)
    for row in range(first, last, BATCH_ROWS):
        part = batch.slice(row, min(BATCH_ROWS, last - row))
        # Text becomes bytes first: a caption that isn't UTF-8 must not make the rows around it fail.
        columns = [plain(column) for column in part.columns]
        for column in columns:
            column.validate(full=True)  # offsets in a broken file can point anywhere in memory
        yield pa.RecordBatch.from_arrays(columns, names=part.schema.names)
