"""Planning: look at a collection once, without reading a picture, and cut it into partitions."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from p2pz_ray.collection.failure import FileError, StorageError, shown
from p2pz_ray.collection.forms import img2dataset, sidecar, tar
from p2pz_ray.collection.forms.metadata import is_metadata
from p2pz_ray.collection.leftovers import leftovers
from p2pz_ray.collection.listing import Entry, Listing, locate, walk
from p2pz_ray.collection.partition import Kind, Partition, Plan, Source, file_id, row_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.store import Store
from p2pz_ray.collection.table import TableFile, table_version
from p2pz_ray.errors import ConfigError
from p2pz_ray.uri import MAGIC

_DECODED = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".avif"),
)
# These become error rows: if they were left out, nobody would notice that their pictures are missing.
_NOT_DECODED = (".heic", ".heif", ".jxl", ".jp2")
_KINDS: dict[Kind, tuple[str, ...]] = {
    "files": (*_DECODED, *_NOT_DECODED),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "tar": (".tar",),
}

READERS = 16
"""Tables looked into at once."""


def make_plan(
    uri: str,
    columns: Columns | None = None,
    storage_options: dict[str, Any] | None = None,
    images_per_partition: int = 64,
    max_images: int | None = None,
    *,
    after: Plan | None = None,
    outside: Sequence[str] = (),
    skip_unreadable: bool = False,
) -> Plan:
    """The partitions of a collection, about `images_per_partition` rows each, the first `max_images` rows in all.

    `uri` is a folder (walked with all below it), a single file, or a glob, of images by their extension, of Parquet or
    Arrow IPC files, or of tars (see `forms`). The same content gives the same plan. Image files become one row each,
    whatever is wrong with them. Row groups and record batches are kept together, but larger ones are cut into even
    ranges of rows. Of rows with the same id, the first keeps it and the others are `renamed`; finding them takes 8
    bytes of memory an id (thrice that while they are compared).

    after: a plan of the collection as it was; then the partitions are those of files that came since, or none.
    outside: URIs of folders that are no input wherever they lie, such as a run's own.
    skip_unreadable: whether tables that can't be read are left out, and named in the plan, instead of raised.

    Raises `ConfigError` if nothing is there or the storage can't be reached, if kinds are mixed, or if a table is
    broken or lacks a column.
    """
    if images_per_partition < 1:
        raise ConfigError(f"images_per_partition is {images_per_partition}: it must be at least 1.")
    if max_images is not None and max_images < 1:
        raise ConfigError(f"max_images is {max_images}: it must be at least 1.")
    columns = columns or Columns()
    try:
        store, pattern = locate(Store(uri, storage_options))
    except StorageError as error:  # nothing has worked yet: an endpoint, credentials or options that never will
        raise ConfigError(str(error)) from error
    listing = walk(store, pattern, lambda path: _kind(path) is not None or _is_companion(path))
    own = [below for below in (_below(store, other) for other in outside) if below is not None]
    entries = [entry for entry in listing.entries if not any(f"{entry.path}/".startswith(below) for below in own)]
    companions = {e.path: e.fingerprint for e in entries if _is_companion(e.path) and e.problem is None}
    listing = Listing([entry for entry in entries if not _is_companion(entry.path)], listing.skipped)
    if pattern is None or MAGIC.search(pattern):  # a file that is named itself is what is meant
        listing = _without_leftovers(store, listing)
    known = frozenset() if after is None else frozenset(s.path for p in after.partitions for s in p.sources)
    described, left = _described(listing.entries), 0
    failures: list[Partition] = []
    downloads = img2dataset.metadata(companions) & {entry.path for entry in listing.entries}
    if described:
        left = len(listing.entries) - len(described)
        listing = Listing(described, listing.skipped)
    elif downloads and any(_kind(entry.path) != "parquet" for entry in listing.entries):
        records = [entry for entry in listing.entries if entry.path in downloads]
        listing = Listing([entry for entry in listing.entries if entry.path not in downloads], listing.skipped)
        for record in records if max_images is None else ():
            if record.path not in known:
                version = store.fingerprint(record.path)
                packs = img2dataset.failed(store, record.path, version, images_per_partition)
                failures += [Partition.of("failed", pack) for pack in packs]
    # What is known comes first: of rows with the same id, and of the first so many images, it stays what it was.
    listing = Listing(sorted(listing.entries, key=lambda entry: entry.path not in known), listing.skipped)
    kind = _only_kind(uri, listing)
    unreadable: dict[str, str] = {}
    if kind == "files":
        partitions = _plan_files(listing.entries[:max_images], images_per_partition, companions, known)
        stems = {posixpath.splitext(entry.path)[0] for entry in listing.entries}
        left += sum(posixpath.splitext(path)[0] not in stems for path in companions)
    elif kind == "tar":
        skipped = unreadable if skip_unreadable else None
        partitions, empty = _plan_tars(
            store, listing.entries, columns, images_per_partition, max_images, known, skipped
        )
        left += empty + len(companions)
    else:
        skipped = unreadable if skip_unreadable else None
        partitions = _plan_tables(
            store, kind, listing.entries, columns, images_per_partition, max_images, known, skipped
        )
        left = max(0, left - sum(partition.rows for partition in partitions)) + len(companions)
    left -= len(downloads)  # their statistics
    partitions += failures
    if not partitions and after is None:
        raise ConfigError(f"{shown(uri)} holds no rows.")
    return Plan(tuple(partitions), listing.skipped + max(0, left), tuple(unreadable.items()))


def _below(store: Store, uri: str) -> str | None:
    """Where a folder lies below the store's, with a "/" behind it; None where it lies elsewhere."""
    try:
        other = Store(uri)
    except ConfigError:
        return None
    if type(other.fs) is not type(store.fs):
        return None
    roots = [(os.path.realpath(one.root) if store.local else one.root).rstrip("/") + "/" for one in (store, other)]
    return roots[1].removeprefix(roots[0]) if roots[1].startswith(roots[0]) else None


def _is_companion(path: str) -> bool:
    """Whether a file may say something of a picture beside it, or of what img2dataset wrote."""
    return posixpath.splitext(path)[1].lower() in sidecar.EXTENSIONS


def _described(entries: list[Entry]) -> list[Entry]:
    """The files that describe the pictures beside them, where that is what they do."""
    found = [entry for entry in entries if is_metadata(entry.path)]
    alone = len(found) == len(entries) and all(_kind(entry.path) == "parquet" for entry in found)
    return [] if alone else found


def _plan_tars(
    store: Store,
    entries: list[Entry],
    columns: Columns,
    per_partition: int,
    max_images: int | None,
    known: frozenset[str],
    unreadable: dict[str, str] | None,
) -> tuple[list[Partition], int]:
    """The partitions of tars, a run of samples each; and how many samples have no picture. See `_plan_tables`."""
    partitions: list[Partition] = []
    wanted, empty = max_images, 0
    for entry in entries:
        if wanted == 0:
            break
        try:
            if entry.problem:
                raise ConfigError(f"{shown(store.name(entry.path))}: {entry.problem}")
            version = store.fingerprint(entry.path)
            found, without = tar.samples(store, entry.path, columns)
        except (ConfigError, FileError) as error:
            if unreadable is None or entry.path in known:
                raise
            unreadable[entry.path] = str(error)
            continue
        empty += without
        found = found[:wanted]
        wanted = None if wanted is None else wanted - len(found)
        if entry.path not in known:
            partitions += _named(
                "tar", tar.sources(entry.path, version, found, per_partition), tar.renamed(entry.path, found)
            )
    return partitions, empty


def _kind(path: str) -> Kind | None:
    if is_metadata(path) and not path.endswith(".parquet"):
        return "jsonl" if path.endswith(".jsonl") else "csv"
    extension = posixpath.splitext(path)[1].lower()
    return next((kind for kind, extensions in _KINDS.items() if extension in extensions), None)


def _without_leftovers(store: Store, listing: Listing) -> Listing:
    left = leftovers(store, (entry.path for entry in listing.entries if _kind(entry.path) in ("parquet", "arrow")))
    kept = [entry for entry in listing.entries if entry.path not in left]
    return Listing(kept, listing.skipped + len(left))


def _only_kind(uri: str, listing: Listing) -> Kind:
    kinds = {_kind(entry.path) for entry in listing.entries if entry.problem is None}
    kinds = kinds or {_kind(entry.path) for entry in listing.entries}
    kinds.discard(None)
    if not kinds:
        raise ConfigError(f"{shown(uri)} holds no images ({', '.join(_DECODED)}) and no Parquet, Arrow or tar files.")
    if len(kinds) > 1:
        raise ConfigError(
            f"{shown(uri)} holds several kinds of input ({', '.join(sorted(map(str, kinds)))}): "
            "name one kind with a pattern such as FOLDER/**/*.png."
        )
    return kinds.pop() or "files"


def _plan_files(
    entries: list[Entry], per_partition: int, companions: dict[str, str], known: frozenset[str]
) -> list[Partition]:
    ids = [file_id(entry.path) for entry in entries]
    renamed = {}
    # Only an escaped name can equal another, so only then are the names worth holding in a set.
    if any(id != entry.path for id, entry in zip(ids, entries, strict=True)):
        taken = {entry.path for entry in entries}
        for row, (id, entry) in enumerate(zip(ids, entries, strict=True)):
            if id == entry.path:
                continue
            if id in taken:
                renamed[row] = _free(id, 2, taken.__contains__)[0]
            taken.add(renamed.get(row, id))
    sources = sidecar.captioned((entry for entry in entries if entry.path not in known), companions)
    kind: Kind = "captioned" if any(source.piece for source in sources) else "files"
    return _named(kind, _packed(sources, per_partition), renamed, len(entries) - len(sources))


def _plan_tables(
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
    ranges = [part for piece in pieces if piece.path not in known for part in _split(piece, per_partition)]
    renamed = _renamed(store, kind, columns, pieces, hashes)
    first = sum(piece.rows for piece in pieces if piece.path in known)
    return _named(kind, _packed(ranges, per_partition), renamed, first)


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
                    renamed[first + row], count[id] = _free(id, count[id] + 1, taken)
                    given.add(renamed[first + row])
                else:
                    count[id] = 1
        first += piece.rows
    return renamed


def _free(id: str, number: int, taken: Callable[[str], bool]) -> tuple[str, int]:
    """`id#number`, or with the next number that no other id has; and that number."""
    while taken(f"{id}#{number}"):
        number += 1
    return f"{id}#{number}", number


def _ids(table: TableFile, piece: Source) -> list[str]:
    ids = table.ids(piece.piece, piece.start, piece.stop)
    return [row_id(piece.path, piece.offset + piece.start + i) if id is None else id for i, id in enumerate(ids)]


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _split(piece: Source, per_partition: int) -> Iterator[Source]:
    """A piece as ranges of nearly equal length, each near the rows of a partition."""
    parts = max(1, round(piece.rows / per_partition))
    for i in range(parts):
        yield replace(piece, start=piece.rows * i // parts, stop=piece.rows * (i + 1) // parts)


def _packed(sources: Iterable[Source], per_partition: int) -> Iterator[list[Source]]:
    """Neighbours together, as long as they don't exceed the rows of a partition."""
    pack: list[Source] = []
    rows = 0
    for source in sources:
        if pack and rows + source.rows > per_partition:
            yield pack
            pack, rows = [], 0
        pack.append(source)
        rows += source.rows
    if pack:
        yield pack


def _named(kind: Kind, packs: Iterable[list[Source]], renamed: dict[int, str], first: int = 0) -> list[Partition]:
    """The packs as partitions; `first` is the row of the collection with which they begin."""
    partitions = []
    for pack in packs:
        stop = first + sum(source.rows for source in pack)
        inside = [(row - first, renamed[row]) for row in range(first, stop) if row in renamed] if renamed else []
        partitions.append(Partition.of(kind, pack, inside))
        first = stop
    return partitions
