"""The partitions of a plan that is too large for memory, in Parquet files of which a few parts are read at a time.

A shard has a row for each partition: its kind, and its sources and new ids as lists. Names are bytes, since a file's
name may be invalid UTF-8.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.collection.partition import Extent, Kind, Partition, Source, Stored
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.failure import FileError, shown
from p2pz_ray.storage.store import Store

FOLDER = "plan"
INLINE = 100_000
"""Number of sources up to which a plan is kept in memory and written as one file."""
SHARD, GROUP = 1_000_000, 16_384
"""Sources per shard, and per group that is read at once; up to one partition more."""
_HELD = 4  # such groups kept in memory
_SOURCE = pa.struct(
    [
        ("path", pa.binary()),
        ("fingerprint", pa.binary()),
        ("problem", pa.string()),
        *((name, pa.int64()) for name in ("piece", "start", "stop", "offset")),
    ]
)
_RENAMED = pa.struct([("row", pa.int64()), ("id", pa.binary())])
_SCHEMA = pa.schema([("kind", pa.string()), ("sources", pa.list_(_SOURCE)), ("renamed", pa.list_(_RENAMED))])


@dataclass(frozen=True)
class Shard:
    """A file of partitions of one kind: their ids in order, and their totals."""

    file: str
    ids: tuple[str, ...]
    extent: Extent


class Shards(Stored):
    """The partitions of shards, in order."""

    def __init__(self, store: Store, shards: Iterable[Shard], keeps: Any = None) -> None:
        self.store, self.shards, self._keeps = store, tuple(shards), keeps
        self._starts = [0, *itertools.accumulate(len(shard.ids) for shard in self.shards)]
        self._files: dict[str, tuple[pq.ParquetFile, list[int]]] = {}
        self._groups: OrderedDict[tuple[int, int], list[Partition]] = OrderedDict()

    @classmethod
    def of_record(cls, store: Store, record: Sequence[dict[str, Any]]) -> Shards:
        """What `record` wrote."""
        shards = (Shard(str(one["file"]), tuple(map(str, one["ids"])), Extent(**one["extent"])) for one in record)
        return cls(store, shards)

    def record(self) -> list[dict[str, Any]]:
        return [asdict(shard) for shard in self.shards]

    @property
    def ids(self) -> list[str]:
        return [id for shard in self.shards for id in shard.ids]

    @property
    def extents(self) -> list[Extent]:
        return [shard.extent for shard in self.shards]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, place: int) -> Partition:
        number = bisect_right(self._starts, place) - 1
        shard, row = self.shards[number], place - self._starts[number]
        return Planned(shard.ids[row], shard.extent.kind, self, number, row)

    def copied(self, store: Store, attempt: str) -> Shards:
        """The same shards, put into another place's folder `plan/` under names that no other `attempt` has."""
        copies = []
        for number, shard in enumerate(self.shards):
            copies.append(replace(shard, file=f"{FOLDER}/{attempt}-{number}.parquet"))
            store.write(copies[-1].file, self.store.read(shard.file))
        return Shards(store, copies)

    def read(self, number: int, row: int) -> Partition:
        """A partition with all that it has. Raises `ConfigError` where the shard is broken or not the plan's,
        `StorageError` where the storage fails."""
        shard = self.shards[number]
        try:
            file, starts = self._opened(shard)
            group = bisect_right(starts, row) - 1
            key = (number, group)
            if key not in self._groups:
                partitions = list(_partitions(file.read_row_group(group)))
                if [each.id for each in partitions] != list(shard.ids[starts[group] : starts[group] + len(partitions)]):
                    raise ValueError("it holds other partitions than the plan")
                self._groups[key] = partitions
            self._groups.move_to_end(key)
            while len(self._groups) > _HELD:
                self._groups.popitem(last=False)
            return self._groups[key][row - starts[group]]
        except (pa.ArrowException, FileError, ValueError, LookupError, TypeError, EOFError) as error:
            name = shown(self.store.name(shard.file))
            raise ConfigError(
                f"{name}, a part of the plan, can't be read ({first_line(error)}): restore it or choose another output."
            ) from error

    def _opened(self, shard: Shard) -> tuple[pq.ParquetFile, list[int]]:
        """The file of a shard, and the row with which each of its groups begins. One is open at a time."""
        if shard.file not in self._files:
            for file, _ in self._files.values():
                file.close(force=True)
            self._files.clear()
            opened = pq.ParquetFile(self.store.open(shard.file))
            rows = (opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups))
            self._files[shard.file] = opened, [0, *itertools.accumulate(rows)]
        return self._files[shard.file]


class Planned(Partition):
    """A partition of a shard, known by its id and kind; the rest is read when it is asked for, and not kept."""

    def __init__(self, id: str, kind: Kind, shards: Shards, number: int, row: int) -> None:
        for name, value in (("id", id), ("kind", kind), ("_place", (shards, number, row))):
            object.__setattr__(self, name, value)

    def whole(self) -> Partition:
        shards, number, row = cast(Any, self)._place
        return cast(Shards, shards).read(number, row)

    @property
    def sources(self) -> tuple[Source, ...]:  # type: ignore[override]
        return self.whole().sources

    @property
    def renamed(self) -> tuple[tuple[int, str], ...]:  # type: ignore[override]
        return self.whole().renamed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partition) and self.whole() == other.whole()

    def __hash__(self) -> int:
        return hash(self.whole())

    def __reduce__(self) -> Any:
        return Partition, (self.id, self.kind, self.sources, self.renamed)

    def __repr__(self) -> str:
        return f"Planned({self.id!r}, {self.kind!r})"


def gathered(partitions: Iterable[Partition]) -> Sequence[Partition]:
    """Partitions as a plan holds them: in memory, or in shards on this machine where they are too many for that."""
    coming = iter(partitions)
    held: list[Partition] = []
    sources = 0
    for partition in coming:
        held.append(partition)
        sources += len(partition.sources)
        if sources > INLINE:
            folder = tempfile.TemporaryDirectory(prefix="p2pz-plan-")
            store = Store(folder.name)
            return Shards(store, _written(store, itertools.chain(_given_away(held), coming)), folder)
    return tuple(held)


def _given_away(held: list[Partition]) -> Iterator[Partition]:
    held.reverse()
    while held:
        yield held.pop()


def _written(store: Store, partitions: Iterable[Partition]) -> Iterator[Shard]:
    """The partitions, put into as many shards as they need, each of one kind."""
    shard: _Shard | None = None
    count = itertools.count()
    for partition in partitions:
        if shard is not None and (partition.kind != shard.kind or shard.sources >= SHARD):
            yield shard.finished(store, f"{next(count)}.parquet")
            shard = None
        shard = shard or _Shard(partition.kind)
        shard.add(partition)
    if shard is not None:
        yield shard.finished(store, f"{next(count)}.parquet")


class _Shard:
    """One that is being written."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.sources = kind, 0
        self._ids: list[str] = []
        self._images = self._bytes = self._captioned = 0
        self._group: list[Partition] = []
        self._grouped = 0
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, _SCHEMA, compression="zstd", use_dictionary=False)

    def add(self, partition: Partition) -> None:
        extent, many = Extent.of(partition), len(partition.sources)
        self._ids.append(partition.id)
        self._images += extent.images
        self._bytes += extent.bytes
        self._captioned += extent.captioned
        self._group.append(partition)
        self.sources += many
        self._grouped += many
        if self._grouped >= GROUP:
            self._flush()

    def finished(self, store: Store, name: str) -> Shard:
        if self._group:
            self._flush()
        self._writer.close()
        store.write(name, self._buffer.getvalue())
        return Shard(name, tuple(self._ids), Extent(self.kind, self._images, self._bytes, self._captioned))

    def _flush(self) -> None:
        self._writer.write_table(_table(self._group), row_group_size=len(self._group))
        self._group, self._grouped = [], 0


def _table(partitions: Sequence[Partition]) -> pa.Table:
    sources = [source for partition in partitions for source in partition.sources]
    renamed = [pair for partition in partitions for pair in partition.renamed]
    columns = [
        [_bytes(source.path) for source in sources],
        [_bytes(source.fingerprint) for source in sources],
        [source.problem for source in sources],
        *([getattr(source, name) for source in sources] for name in ("piece", "start", "stop", "offset")),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SOURCE, strict=True)]
    given = [
        pa.array([row for row, _ in renamed], pa.int64()),
        pa.array([_bytes(id) for _, id in renamed], pa.binary()),
    ]
    return pa.table(
        [
            pa.array([partition.kind for partition in partitions], pa.string()),
            _lists([len(partition.sources) for partition in partitions], arrays, _SOURCE),
            _lists([len(partition.renamed) for partition in partitions], given, _RENAMED),
        ],
        schema=_SCHEMA,
    )


def _lists(lengths: Sequence[int], arrays: Sequence[pa.Array], of: pa.StructType) -> pa.ListArray:
    offsets = pa.array([0, *itertools.accumulate(lengths)], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(of)))


def _partitions(table: pa.Table) -> Iterator[Partition]:
    sources = (Source(_text(path), _text(version), *rest) for path, version, *rest in _rows(table["sources"]))
    renamed = ((row, _text(id)) for row, id in _rows(table["renamed"]))
    lengths = (pa.compute.list_value_length(table[name]).to_pylist() for name in ("sources", "renamed"))
    for kind, many, given in zip(table["kind"].to_pylist(), *lengths, strict=True):
        yield Partition.of(kind, itertools.islice(sources, many), itertools.islice(renamed, given))


def _rows(lists: pa.ChunkedArray) -> Iterator[tuple[Any, ...]]:
    structs = lists.combine_chunks().flatten()
    return zip(*(column.to_pylist() for column in structs.flatten()), strict=True)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
