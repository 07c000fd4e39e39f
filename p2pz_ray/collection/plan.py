"""Planning: list a collection once, without reading pictures, and divide it into partitions."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pz_ray.collection.forms import img2dataset, sidecar, tar
from p2pz_ray.collection.forms.metadata import is_metadata
from p2pz_ray.collection.leftovers import leftovers
from p2pz_ray.collection.listing import locate, walk
from p2pz_ray.collection.packing import packed, partitions_of
from p2pz_ray.collection.partition import Kind, Partition, Plan, Source, file_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.shards import gathered
from p2pz_ray.collection.sorted import Among, Entry, Sorted, by_stem
from p2pz_ray.collection.table_plan import free_id, plan_tables
from p2pz_ray.errors import ConfigError
from p2pz_ray.storage.failure import FileError, StorageError, shown
from p2pz_ray.storage.store import Store
from p2pz_ray.storage.uri import MAGIC

_DECODED = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".avif"),
)
# These become error rows: otherwise nobody would notice that their pictures are missing.
_NOT_DECODED = (".heic", ".heif", ".jxl", ".jp2")
_KINDS: dict[Kind, tuple[str, ...]] = {
    "files": (*_DECODED, *_NOT_DECODED),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "tar": (".tar",),
}
_KIND_OF = {extension: kind for kind, extensions in _KINDS.items() for extension in extensions}


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
    except StorageError as error:  # the first access: probably a wrong endpoint, credentials or options
        raise ConfigError(str(error)) from error
    own = [below for below in (_below(store, other) for other in outside) if below is not None]
    names = _names(store, pattern, own)
    if pattern is None or MAGIC.search(pattern):  # a file that is named itself is what is meant
        names.drop_leftovers(store)
    before = () if after is None else after.partitions
    known = frozenset(s.path for p in before if p.kind not in ("files", "captioned") for s in p.sources)
    described, left = names.described(), 0
    failures: list[Partition] = []
    downloads = names.downloads & {entry.path for entry in names.others}
    if described:
        left = names.pictures + len(names.others) - len(described)
        names.others, names.unlisted, names.pictures = described, [], 0
    elif downloads and (names.pictures or any(_kind(entry.path) != "parquet" for entry in names.others)):
        records = [entry for entry in names.others if entry.path in downloads]
        names.others = [entry for entry in names.others if entry.path not in downloads]
        for record in records if max_images is None else ():
            if record.path not in known:
                version = store.fingerprint(record.path)
                packs = img2dataset.plan_failures(store, record.path, version, images_per_partition)
                failures += [Partition.of("failed", pack) for pack in packs]
    # Known files come first, so that ids of duplicates and the limit of images apply to the same rows as before.
    entries = sorted(names.others + names.unlisted, key=lambda entry: (entry.path not in known, entry.path))
    kind = names.only_kind(uri)
    unreadable: dict[str, str] = {}
    skipped = unreadable if skip_unreadable else None
    planned: Iterable[Partition]
    if kind == "files":
        for entry in names.unlisted:  # they become error rows, so that missing files are noticed
            names.beside.add(entry)
        pictures = _Pictures(names, before, max_images)
        planned = pictures.partitions(images_per_partition)
    elif kind == "tar":
        planned, empty = _plan_tars(store, entries, columns, images_per_partition, max_images, known, skipped)
        left += empty + names.companions
    else:
        planned = plan_tables(store, kind, entries, columns, images_per_partition, max_images, known, skipped)
        left = max(0, left - sum(partition.rows for partition in planned)) + names.companions
    partitions = gathered(itertools.chain(planned, failures))
    if kind == "files":
        left += pictures.alone
    left -= len(downloads)  # their statistics
    if not partitions and after is None:
        raise ConfigError(f"{shown(uri)} holds no rows.")
    return Plan(partitions, names.skipped + max(0, left), tuple(unreadable.items()))


@dataclass
class _Names:
    """The names below a collection's folder.

    pictures, companions: how many there are of each; sound: whether any of the pictures can be read; escaped: the paths
    of those whose names are no text. others: tables and tars. downloads: the Parquet files that have img2dataset's
    statistics beside them. unlisted: folders that can't be looked into. skipped: names that were left out.
    """

    beside: Sorted = field(default_factory=Sorted)
    """Pictures and companions."""
    pictures: int = 0
    companions: int = 0
    sound: bool = False
    escaped: list[str] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)
    downloads: set[str] = field(default_factory=set)
    unlisted: list[Entry] = field(default_factory=list)
    skipped: int = 0

    def add(self, entry: Entry) -> None:
        kind = _kind(entry.path)
        if kind == "files":
            self.pictures += 1
            self.sound = self.sound or entry.problem is None
            self.beside.add(entry)
            if file_id(entry.path) != entry.path:
                self.escaped.append(entry.path)
        elif kind is not None:
            self.others.append(entry)
        elif not _is_companion(entry.path):
            self.unlisted.append(entry)
        elif entry.problem is None:
            self.companions += 1
            self.beside.add(entry)
            self.downloads |= img2dataset.metadata([entry.path])

    def drop_leftovers(self, store: Store) -> None:
        """Remove files that other tools leave next to their tables."""
        left = leftovers(store, (each.path for each in self.others if _kind(each.path) in ("parquet", "arrow")))
        self.others = [entry for entry in self.others if entry.path not in left]
        self.skipped += len(left)

    def described(self) -> list[Entry]:
        """The metadata files that describe pictures; [] if they are the collection itself, in Parquet."""
        tables = [entry for entry in self.others if is_metadata(entry.path)]
        only_tables = len(tables) == len(self.others) and not self.pictures
        return [] if only_tables and all(_kind(entry.path) == "parquet" for entry in tables) else tables

    def only_kind(self, uri: str) -> Kind:
        kinds = {_kind(entry.path) for entry in self.others if entry.problem is None}
        kinds |= {"files"} if self.pictures and self.sound else set()
        if not kinds:
            kinds = {_kind(entry.path) for entry in self.others} | ({"files"} if self.pictures else set())
        kinds.discard(None)
        if not kinds:
            raise ConfigError(
                f"{shown(uri)} holds no images ({', '.join(_DECODED)}) and no Parquet, Arrow or tar files."
            )
        if len(kinds) > 1:
            raise ConfigError(
                f"{shown(uri)} holds several kinds of input ({', '.join(sorted(map(str, kinds)))}): "
                "name one kind with a pattern such as FOLDER/**/*.png."
            )
        return kinds.pop() or "files"


def _names(store: Store, pattern: str | None, own: Sequence[str]) -> _Names:
    """All of them, but for those below the folders `own`."""
    names = _Names()
    for entry in walk(store, pattern, lambda path: _kind(path) is not None or _is_companion(path)):
        if entry is None:
            names.skipped += 1
        elif not any(f"{entry.path}/".startswith(below) for below in own):
            names.add(entry)
    return names


class _Pictures:
    """The partitions of image files that a plan doesn't have yet, the first so many images with those that it has.

    alone: companions, of those gone through, that no picture has.
    """

    def __init__(self, names: _Names, before: Sequence[Partition], max_images: int | None) -> None:
        self._names, self._known, self.alone = names, Sorted(), 0
        for partition in before:
            for source in partition.sources if partition.kind in ("files", "captioned") else ():
                self._known.add(Entry(source.path, ""))
        self._most = None if max_images is None else max(0, max_images - len(self._known))

    def partitions(self, per_partition: int) -> Iterator[Partition]:
        renamed = self._renamed()
        kind: Kind = "captioned" if self._names.companions and any(s.piece for s in self._sources()) else "files"
        self.alone = 0
        for pack in packed(itertools.islice(self._sources(), self._most), per_partition):
            given = [(row, renamed[source.path]) for row, source in enumerate(pack) if source.path in renamed]
            yield Partition.of(kind, pack, given)

    def _sources(self) -> Iterator[Source]:
        known = Among(self._known)
        if not self._names.companions:
            yield from (
                Source(each.path, each.fingerprint, each.problem) for each in self._names.beside if each not in known
            )
            return
        for group in by_stem(self._names.beside):
            companions = {entry.path: entry.fingerprint for entry in group if _is_companion(entry.path)}
            pictures = [entry for entry in group if entry.path not in companions]
            stems = {posixpath.splitext(entry.path)[0] for entry in pictures}
            self.alone += sum(posixpath.splitext(path)[0] not in stems for path in companions)
            yield from sidecar.sources((entry for entry in pictures if entry not in known), companions)

    def _renamed(self) -> dict[str, str]:
        """Path → new id, for pictures whose id is the path of another. Only escaped names can cause this."""
        ids = {file_id(path) for path in self._names.escaped}
        taken = {entry.path for entry in self._names.beside if entry.path in ids} if ids else set()
        renamed = {}
        for path in sorted(self._names.escaped):
            id = file_id(path)
            if id in taken:
                renamed[path] = free_id(id, 2, taken.__contains__)[0]
            taken.add(renamed.get(path, id))
        return renamed


def _below(store: Store, uri: str) -> str | None:
    """A folder's path relative to the store's, with "/" at the end; None if it is elsewhere."""
    try:
        other = Store(uri)
    except ConfigError:
        return None
    if type(other.fs) is not type(store.fs):
        return None
    roots = [(os.path.realpath(one.root) if store.local else one.root).rstrip("/") + "/" for one in (store, other)]
    return roots[1].removeprefix(roots[0]) if roots[1].startswith(roots[0]) else None


def _is_companion(path: str) -> bool:
    """Whether a file may describe a picture in its folder, or img2dataset's output."""
    return posixpath.splitext(path)[1].lower() in sidecar.EXTENSIONS


def _plan_tars(
    store: Store,
    entries: list[Entry],
    columns: Columns,
    per_partition: int,
    max_images: int | None,
    known: frozenset[str],
    unreadable: dict[str, str] | None,
) -> tuple[list[Partition], int]:
    """The partitions of tars, a run of samples each; and how many samples have no picture. See `plan_tables`."""
    partitions: list[Partition] = []
    wanted, empty = max_images, 0
    for entry in entries:
        if wanted == 0:
            break
        try:
            if entry.problem:
                raise ConfigError(f"{shown(store.name(entry.path))}: {entry.problem}")
            version = store.fingerprint(entry.path)
            samples, without = tar.samples(store, entry.path, columns)
        except (ConfigError, FileError) as error:
            if unreadable is None or entry.path in known:
                raise
            unreadable[entry.path] = str(error)
            continue
        empty += without
        samples = samples[:wanted]
        wanted = None if wanted is None else wanted - len(samples)
        if entry.path not in known:
            partitions += partitions_of(
                "tar", tar.sources(entry.path, version, samples, per_partition), tar.new_ids(entry.path, samples)
            )
    return partitions, empty


def _kind(path: str) -> Kind | None:
    extension = posixpath.splitext(path)[1].lower()
    if extension in (".jsonl", ".csv"):
        return ("jsonl" if extension == ".jsonl" else "csv") if is_metadata(path) else None
    return _KIND_OF.get(extension)
