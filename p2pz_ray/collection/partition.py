"""The units of work: a plan cuts a collection into partitions, each named by a hash of exactly what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from p2pz_ray.errors import ConfigError

Kind = Literal["files", "captioned", "parquet", "arrow", "jsonl", "csv", "tar", "failed"]
PLAN_VERSION = 1


@dataclass(frozen=True)
class Source:
    """Where some rows of a partition come from.

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

    @classmethod
    def of(cls, kind: Kind, sources: Iterable[Source], renamed: Iterable[tuple[int, str]] = ()) -> Partition:
        """A partition with its id worked out."""
        rest = cls("", kind, tuple(sources), tuple(renamed))
        digest = hashlib.sha256(json.dumps(rest._as_lists(), separators=(",", ":")).encode())
        return cls(digest.hexdigest()[:16], kind, rest.sources, rest.renamed)

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
class Plan:
    """All partitions of a collection, in the order of its rows.

    skipped: names below the folder that are hidden or of another kind, and so left out.
    unreadable: tables that were left out, each with the sentence that says why it can't be read.
    """

    partitions: tuple[Partition, ...]
    skipped: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def ids(self) -> list[str]:
        """Of all partitions."""
        return [partition.id for partition in self.partitions]

    @property
    def images(self) -> int:
        """Rows of all partitions."""
        return sum(partition.rows for partition in self.partitions)

    def __add__(self, more: Plan) -> Plan:
        """Both plans' partitions, those of `more` behind."""
        unreadable = dict(self.unreadable + more.unreadable)
        return Plan(self.partitions + more.partitions, self.skipped, tuple(unreadable.items()))

    def to_json(self) -> str:
        """The plan as JSON; `from_json` gives an equal plan."""
        partitions = [[partition.id, *partition._as_lists()] for partition in self.partitions]
        return json.dumps(
            {
                "version": PLAN_VERSION,
                "images": self.images,
                "skipped": self.skipped,
                "unreadable": [list(pair) for pair in self.unreadable],
                "partitions": partitions,
            }
        )

    @staticmethod
    def outline(text: str | bytes) -> tuple[list[str], int]:
        """The ids and the images of a plan that `to_json` wrote, which are known sooner than all that it says."""
        try:
            document = json.loads(text)
            return [str(partition[0]) for partition in document["partitions"]], int(document["images"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigError(f"The plan can't be read ({error!r}).") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The plan that `to_json` wrote. Raises `ConfigError` if it is none, or its ids don't fit its content."""
        try:
            document = json.loads(text)
            if document["version"] != PLAN_VERSION:
                raise ConfigError(f"The plan has version {document['version']}; this is made for {PLAN_VERSION}.")
            partitions = []
            for name, kind, sources, renamed in document["partitions"]:
                pairs = ((int(row), str(id)) for row, id in renamed)
                partition = Partition.of(kind, (Source(*source) for source in sources), pairs)
                if partition.id != name:
                    raise ConfigError(f"The plan's partition {name} doesn't hold what it was made of.")
                partitions.append(partition)
            unreadable = ((str(path), str(reason)) for path, reason in document.get("unreadable", ()))
            return cls(tuple(partitions), int(document["skipped"]), tuple(unreadable))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"The plan can't be read ({error!r}).") from error


def file_id(path: str) -> str:
    """The id of an image file: its path below the collection's folder, bytes that aren't UTF-8 backslash-escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def row_id(path: str, row: int) -> str:
    """The id of a table's row that has none: the file's and the row's number in it, from 0."""
    return f"{file_id(path)}#{row}"
