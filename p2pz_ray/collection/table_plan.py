"""Planning of tables: their rows cut into pieces, and ids that several of them share made different."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from p2pz_ray.collection.packing import packed, partitions_of, ranges_of
from p2pz_ray.collection.partition import Kind, Partition, Source, row_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.sorted import Entry
from p2pz_ray.collection.table import TableFile, table_version
from p2pz_ray.errors import ConfigError
from p2pz_ray.storage.failure import FileError, shown
from p2pz_ray.storage.store import Store

READERS = 16
"""Tables looked into at once."""


def plan_tables(
    store: Store,
    kind: Kind,
    entries: list[Entry],
    columns: Columns,
    per_partition: int,
    max_images: int | None,
    known: frozenset[str],
    unreadable: dict[str, str] | None,
) -> list[Partition]:
    """unreadable: takes the tables that can't be read, with the reason; None raises that."""
    pieces: list[Source] = []
    hashes: list[np.ndarray] = []
    wanted = max_images

    def looked_into(entry: Entry) -> list[tuple[Source, np.ndarray]] | ConfigError | FileError:
        try:
            return _pieces(store, kind, entry, columns, wanted)
        except (ConfigError, FileError) as error:
            return error

    # A remote storage answers slowly, but many at once; where only so many rows are wanted, one file after another.
    with ThreadPoolExecutor(1 if store.local else READERS) as readers:
        looked: Iterable[Any] = (readers.map if max_images is None else map)(looked_into, entries)
        for entry, found in zip(entries, looked, strict=True):
            if isinstance(found, Exception):
                if unreadable is None or entry.path in known:
                    raise found
                unreadable[entry.path] = str(found)
                continue
            pieces += [source for source, _ in found]
            hashes += [own for _, own in found]
            if wanted is not None:
                wanted -= sum(source.rows for source, _ in found)
                if not wanted:
                    break
    ranges = [part for piece in pieces if piece.path not in known for part in ranges_of(piece, per_partition)]
    renamed = _renamed(store, kind, columns, pieces, hashes)
    first = sum(piece.rows for piece in pieces if piece.path in known)
    return partitions_of(kind, packed(ranges, per_partition), renamed, first)


def _pieces(
    store: Store, kind: Kind, entry: Entry, columns: Columns, wanted: int | None
) -> list[tuple[Source, np.ndarray]]:
    """The pieces of a table, the first `wanted` rows of them, each with the hashes of its rows' ids."""
    if entry.problem:
        raise ConfigError(f"{shown(store.name(entry.path))}: {entry.problem}")
    # Not the listing's: some storage words the same version differently there.
    version, offset, found = table_version(store, entry.path, kind), 0, []
    with TableFile(store, entry.path, kind, columns, version) as table:
        for piece, rows in enumerate(table.pieces()):
            stop = rows if wanted is None else min(rows, wanted)
            if stop:
                source = Source(entry.path, version, None, piece, 0, stop, offset)
                ids = _ids(table, source)
                found.append((source, np.array([_hash(id) for id in ids], dtype=np.uint64)))
            offset += rows
            if wanted is not None:
                wanted -= stop
                if not wanted:
                    break
    return found


def _renamed(
    store: Store, kind: Kind, columns: Columns, pieces: list[Source], hashes: list[np.ndarray]
) -> dict[int, str]:
    """New ids, by row of the collection, for all but the first row of each id.

    Equal hashes only point at rows that might share an id; their ids themselves are read again to decide.
    """
    if not pieces:
        return {}
    ordered = np.sort(np.concatenate(hashes))
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    renamed: dict[int, str] = {}
    given: set[str] = set()
    count: dict[str, int] = {}

    def taken(id: str) -> bool:
        value = _hash(id)
        place = int(np.searchsorted(ordered, np.uint64(value)))
        return id in given or (place < len(ordered) and int(ordered[place]) == value)

    first = 0
    for piece, own in zip(pieces, hashes, strict=True):
        rows = np.flatnonzero(np.isin(own, suspects)) if len(suspects) else ()
        if len(rows):
            with TableFile(store, piece.path, kind, columns) as table:
                ids = _ids(table, piece)
            for row in map(int, rows):
                id = ids[row]
                if id in count:
                    renamed[first + row], count[id] = free_id(id, count[id] + 1, taken)
                    given.add(renamed[first + row])
                else:
                    count[id] = 1
        first += piece.rows
    return renamed


def free_id(id: str, number: int, taken: Callable[[str], bool]) -> tuple[str, int]:
    """`id#number`, or with the next number that no other id has; and that number."""
    while taken(f"{id}#{number}"):
        number += 1
    return f"{id}#{number}", number


def _ids(table: TableFile, piece: Source) -> list[str]:
    ids = table.ids(piece.piece, piece.start, piece.stop)
    return [row_id(piece.path, piece.offset + piece.start + i) if id is None else id for i, id in enumerate(ids)]


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest())
