"""Planning of tables: their rows are cut into partitions, and ids that several rows share are made unique."""

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
"""The number of tables that are read at the same time."""


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
    """The partitions of the tables of `entries`, except those whose path is `known`.

    unreadable: tables that can't be read are added to it, path → reason; if it is None, the reason is raised.
    """
    pieces: list[Source] = []
    hashes: list[np.ndarray] = []
    wanted = max_images

    def read(entry: Entry) -> list[tuple[Source, np.ndarray]] | ConfigError | FileError:
        try:
            return _pieces(store, kind, entry, columns, wanted)
        except (ConfigError, FileError) as error:
            return error

    # Remote storage is slow per request, but takes many at once. With a limit on rows, files are read one by one.
    with ThreadPoolExecutor(1 if store.local else READERS) as readers:
        results: Iterable[Any] = (readers.map if max_images is None else map)(read, entries)
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, Exception):
                if unreadable is None or entry.path in known:
                    raise result
                unreadable[entry.path] = str(result)
                continue
            pieces += [source for source, _ in result]
            hashes += [own for _, own in result]
            if wanted is not None:
                wanted -= sum(source.rows for source, _ in result)
                if not wanted:
                    break
    ranges = [part for piece in pieces if piece.path not in known for part in ranges_of(piece, per_partition)]
    new_ids = _new_ids(store, kind, columns, pieces, hashes)
    first = sum(piece.rows for piece in pieces if piece.path in known)
    return partitions_of(kind, packed(ranges, per_partition), new_ids, first)


def _pieces(
    store: Store, kind: Kind, entry: Entry, columns: Columns, wanted: int | None
) -> list[tuple[Source, np.ndarray]]:
    """The pieces of a table, each with the hashes of its rows' ids; of the first `wanted` rows if that isn't None."""
    if entry.problem:
        raise ConfigError(f"{shown(store.name(entry.path))}: {entry.problem}")
    # Not the listing's version: some storage writes the same version differently there.
    version, offset, pieces = table_version(store, entry.path, kind), 0, []
    with TableFile(store, entry.path, kind, columns, version) as table:
        for piece, rows in enumerate(table.pieces()):
            stop = rows if wanted is None else min(rows, wanted)
            if stop:
                source = Source(entry.path, version, None, piece, 0, stop, offset)
                ids = _ids(table, source)
                pieces.append((source, np.array([_hash(id) for id in ids], dtype=np.uint64)))
            offset += rows
            if wanted is not None:
                wanted -= stop
                if not wanted:
                    break
    return pieces


def _new_ids(
    store: Store, kind: Kind, columns: Columns, pieces: list[Source], hashes: list[np.ndarray]
) -> dict[int, str]:
    """New ids, by row of the collection, for all but the first row of each id.

    Equal hashes only show which rows might share an id; the ids themselves are read again to decide.
    """
    if not pieces:
        return {}
    ordered = np.sort(np.concatenate(hashes))
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    new_ids: dict[int, str] = {}
    assigned: set[str] = set()
    count: dict[str, int] = {}

    def taken(id: str) -> bool:
        value = _hash(id)
        place = int(np.searchsorted(ordered, np.uint64(value)))
        return id in assigned or (place < len(ordered) and int(ordered[place]) == value)

    first = 0
    for piece, own in zip(pieces, hashes, strict=True):
        rows = np.flatnonzero(np.isin(own, suspects)) if len(suspects) else ()
        if len(rows):
            with TableFile(store, piece.path, kind, columns) as table:
                ids = _ids(table, piece)
            for row in map(int, rows):
                id = ids[row]
                if id in count:
                    new_ids[first + row], count[id] = free_id(id, count[id] + 1, taken)
                    assigned.add(new_ids[first + row])
                else:
                    count[id] = 1
        first += piece.rows
    return new_ids


def free_id(id: str, number: int, taken: Callable[[str], bool]) -> tuple[str, int]:
    """`id#number`, with the first number from the given one on that makes a free id; and that number."""
    while taken(f"{id}#{number}"):
        number += 1
    return f"{id}#{number}", number


def _ids(table: TableFile, piece: Source) -> list[str]:
    ids = table.ids(piece.piece, piece.start, piece.stop)
    return [row_id(piece.path, piece.offset + piece.start + i) if id is None else id for i, id in enumerate(ids)]


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest())
