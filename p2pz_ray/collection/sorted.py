"""A collection's names, sorted by path, even if they don't fit in memory."""

from __future__ import annotations

import heapq
import itertools
import json
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

HELD = 200_000
"""Names sorted in memory at once; more are kept in sorted temporary files."""
_AT_ONCE = 4096  # names that are read of such a file


@dataclass(frozen=True, slots=True)
class Entry:
    """A name below a folder: its path relative to it, its version, and why it can't be read, if it can't."""

    path: str
    fingerprint: str
    problem: str | None = None


class Sorted:
    """Entries that are added in any order and iterated, any number of times, in the order of their paths."""

    def __init__(self) -> None:
        self._held: list[tuple[str, str, str | None]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: list[Path] = []
        self._last = ""  # the last path of the last file
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Entry) -> None:
        self._held.append((entry.path, entry.fingerprint, entry.problem))
        self._count += 1
        if len(self._held) >= HELD:
            self._put_away()

    def __iter__(self) -> Iterator[Entry]:
        self._held.sort(key=itemgetter(0))
        parts = [*map(_read, self._files), iter(self._held)]
        return itertools.starmap(Entry, heapq.merge(*parts) if len(parts) > 1 else parts[0])

    def _put_away(self) -> None:
        """What is held, into the last file where it comes after all that is there, as names of a storage that sorts
        them do; else into a new one."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="p2pz-names-")
        self._held.sort(key=itemgetter(0))
        if not self._files or self._held[0][0] < self._last:
            self._files.append(Path(self._folder.name, str(len(self._files))))
        with self._files[-1].open("a", encoding="ascii") as file:
            for start in range(0, len(self._held), _AT_ONCE):
                file.write(json.dumps(self._held[start : start + _AT_ONCE]) + "\n")
        self._last = self._held[-1][0]
        self._held = []


class Among:
    """Membership by path among sorted entries; must be asked in the order of paths."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._rest = iter(entries)
        self._next = next(self._rest, None)

    def __contains__(self, entry: Entry) -> bool:
        while self._next is not None and self._next.path < entry.path:
            self._next = next(self._rest, None)
        return self._next is not None and self._next.path == entry.path


def by_stem(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in the order of their paths, in groups: what differs from a name by its extension alone is in its group,
    since in that order all that begins with a name's stem and a dot stands together."""
    group: list[Entry] = []
    stem = ""
    for entry in entries:
        if group and not entry.path.startswith(stem):
            yield group
            group = []
        if not group:
            stem = f"{posixpath.splitext(entry.path)[0]}."
        group.append(entry)
    if group:
        yield group


def _read(file: Path) -> Iterator[tuple[str, str, str | None]]:
    with file.open(encoding="ascii") as opened:
        for line in opened:
            yield from map(tuple, json.loads(line))
