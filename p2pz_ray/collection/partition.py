"""The units of work: a plan cuts a collection into partitions, each named by a hash of exactly what it holds."""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from p2pz_ray.errors import ConfigError

Kind = Literal["files", "captioned", "parquet", "arrow", "jsonl", "csv", "tar", "failed"]
PLAN_VERSION, SHARDED = 1, 2
"""Versions: of a plan that includes its partitions, and of one whose partitions are in separate files."""


@dataclass(frozen=True)
class Source:
    """The origin of some rows of a partition.

    path: relative to the collection's folder.
    fingerprint: the file's version (size and ETag or time) when it was planned.
    problem: a sentence, if planning found that the file can't be read.
    piece: row group (Parquet) or record batch (Arrow) in the file; an image file is one piece, and where it has a
    caption beside it which kind of file that is; of a tar the byte at which its samples begin.
    start, stop: rows of that piece.
    offset: rows of the file before that piece; of a caption's file its version; of a tar the byte where samples end.
    """

    path: str
    fingerprint: str
    problem: str | None = None
    piece: int = 0
    start: int = 0
    stop: int = 1
    offset: int = 0

    @property
    def rows(self) -> int:
        """Rows, of which each is an image."""
        return self.stop - self.start

    @property
    def bytes(self) -> int:
        """The file's size, from its fingerprint; 0 if unknown."""
        number = self.fingerprint.partition("-")[0]
        return int(number) if number.isdigit() else 0


@dataclass(frozen=True)
class Partition:
    """One unit of work.

    id: 16 hexadecimal digits, a hash of all that follows: a changed input changes it.
    renamed: (row of the partition, id) for rows whose own id another row has already.
    """

    id: str
    kind: Kind
    sources: tuple[Source, ...]
    renamed: tuple[tuple[int, str], ...] = ()

    @property
    def rows(self) -> int:
        """Rows, of which each is an image."""
        return sum(source.rows for source in self.sources)

    @staticmethod
    def of(kind: Kind, sources: Iterable[Source], renamed: Iterable[tuple[int, str]] = ()) -> Partition:
        """A partition with its id worked out."""
        rest = Partition("", kind, tuple(sources), tuple(renamed))
        digest = hashlib.sha256(json.dumps(rest._as_lists(), separators=(",", ":")).encode())
        return Partition(digest.hexdigest()[:16], kind, rest.sources, rest.renamed)

    def whole(self) -> Partition:
        """The partition with all its sources in memory, which is this one."""
        return self

    def _as_lists(self) -> list[Any]:
        # A folder's plan names every file: lists, and no defaults, keep a million of them small.
        sources: list[list[Any]] = []
        for source in self.sources:
            if self.kind == "files":
                sources.append([source.path, source.fingerprint, *([source.problem] * bool(source.problem))])
            else:
                place = (source.piece, source.start, source.stop, source.offset)
                sources.append([source.path, source.fingerprint, source.problem, *place])
        return [self.kind, sources, [list(pair) for pair in self.renamed]]


@dataclass(frozen=True)
class Extent:
    """Totals for one kind: images, bytes of their sources' files, and the number of sources with caption files."""

    kind: Kind
    images: int
    bytes: int
    captioned: int

    @classmethod
    def of(cls, partition: Partition) -> Extent:
        sources = partition.sources
        captioned = sum(bool(source.piece) for source in sources) if partition.kind == "captioned" else 0
        return cls(partition.kind, partition.rows, sum(source.bytes for source in sources), captioned)


class Stored(Sequence[Partition]):
    """Partitions that are read from storage on demand; only their ids and totals are in memory."""

    @property
    @abstractmethod
    def ids(self) -> list[str]: ...
    @property
    @abstractmethod
    def extents(self) -> list[Extent]: ...
    @abstractmethod
    def record(self) -> list[dict[str, Any]]:
        """Where they are stored, as JSON values."""

    @abstractmethod
    def at(self, place: int) -> Partition:
        """The partition at an index."""

    @overload
    def __getitem__(self, place: int) -> Partition: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Partition]: ...
    def __getitem__(self, place: int | slice) -> Partition | Sequence[Partition]:
        places = range(len(self))[place]
        return self.at(places) if isinstance(places, int) else tuple(map(self.at, places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Partition.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


class Joined(Stored):
    """The partitions of several plans, one after another."""

    def __init__(self, *parts: Sequence[Partition]) -> None:
        self._parts = parts

    @property
    def ids(self) -> list[str]:
        return [id for part in self._parts for id in Plan(part).ids]

    @property
    def extents(self) -> list[Extent]:
        return [extent for part in self._parts for extent in Plan(part).extents]

    def record(self) -> list[dict[str, Any]]:
        raise TypeError("each part of a plan is recorded by itself")

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Partition]:
        return itertools.chain.from_iterable(self._parts)

    def at(self, place: int) -> Partition:
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class Plan:
    """All partitions of a collection, in the order of its rows: a tuple, or `Stored`.

    skipped: names below the folder that are hidden or of another kind, and so left out.
    unreadable: tables that were left out, each with the sentence that says why it can't be read.
    """

    partitions: Sequence[Partition]
    skipped: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def ids(self) -> list[str]:
        """Of all partitions."""
        if isinstance(self.partitions, Stored):
            return self.partitions.ids
        return [partition.id for partition in self.partitions]

    @property
    def extents(self) -> list[Extent]:
        """Totals by kind; one kind may have several."""
        if isinstance(self.partitions, Stored):
            return self.partitions.extents
        return [Extent.of(partition) for partition in self.partitions]

    @property
    def images(self) -> int:
        """Rows of all partitions."""
        if isinstance(self.partitions, Stored):
            return sum(extent.images for extent in self.partitions.extents)
        return sum(partition.rows for partition in self.partitions)

    def __add__(self, more: Plan) -> Plan:
        """Both plans' partitions, those of `more` behind."""
        unreadable = dict(self.unreadable + more.unreadable)
        parts = [part for part in (self.partitions, more.partitions) if part]
        stored = any(isinstance(part, Stored) for part in parts)
        together: Sequence[Partition] = Joined(*parts) if stored else tuple(itertools.chain(*parts))
        return Plan(parts[0] if len(parts) == 1 else together, self.skipped, tuple(unreadable.items()))

    def to_json(self) -> str:
        """The plan as JSON; `from_json` gives an equal plan."""
        record: dict[str, Any] = {"images": self.images, "skipped": self.skipped}
        record["unreadable"] = [list(pair) for pair in self.unreadable]
        if isinstance(self.partitions, Stored):
            return json.dumps({"version": SHARDED, **record, "shards": self.partitions.record()})
        partitions = [[partition.id, *partition._as_lists()] for partition in self.partitions]
        return json.dumps({"version": PLAN_VERSION, **record, "partitions": partitions})

    @staticmethod
    def outline(text: str | bytes) -> tuple[list[str], int]:
        """The ids and the number of images of a plan that `to_json` wrote, faster than reading all of it."""
        try:
            document = json.loads(text)
            ids = [id for shard in document.get("shards", ()) for id in shard["ids"]]
            ids += [partition[0] for partition in document.get("partitions", ())]
            return list(map(str, ids)), int(document["images"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(f"The plan can't be read ({error!r}).") from error

    @classmethod
    def from_json(
        cls, text: str | bytes, stored: Callable[[list[dict[str, Any]]], Sequence[Partition]] | None = None
    ) -> Plan:
        """The plan that `to_json` wrote. `stored` makes partitions of what `Stored.record` gave. Raises `ConfigError`
        if it is none, or its ids don't fit its content."""
        try:
            document = json.loads(text)
            unreadable = tuple((str(path), str(reason)) for path, reason in document.get("unreadable", ()))
            if document["version"] == SHARDED and stored is not None:
                return cls(stored(document["shards"]), int(document["skipped"]), unreadable)
            if document["version"] != PLAN_VERSION:
                raise ConfigError(f"The plan has version {document['version']}; this is made for {PLAN_VERSION}.")
            partitions = []
            for name, kind, sources, renamed in document["partitions"]:
                pairs = ((int(row), str(id)) for row, id in renamed)
                partition = Partition.of(kind, (Source(*source) for source in sources), pairs)
                if partition.id != name:
                    raise ConfigError(f"The plan's partition {name} doesn't match the hash in its name.")
                partitions.append(partition)
            return cls(tuple(partitions), int(document["skipped"]), unreadable)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"The plan can't be read ({error!r}).") from error


def file_id(path: str) -> str:
    """The id of an image file: its path below the collection's folder, bytes that aren't UTF-8 backslash-escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def row_id(path: str, row: int) -> str:
    """The id of a table's row that has none: the file's and the row's number in it, from 0."""
    return f"{file_id(path)}#{row}"
