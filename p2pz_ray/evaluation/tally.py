"""Counts of a run's pairs, from one pass over the columns without pictures."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p2pz_ray.commit.folder import READERS
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.commit.run import Run

KEPT_IDS, KEPT_PROBLEMS = 50, 1_000
"""Ids kept per problem, and problems kept; the others are only counted."""
OTHERS = "Other reasons: each row of the run names its own."


@dataclass
class Problem:
    """The images with one status other than ok and one reason. images: how many; ids: the first ones."""

    status: str
    sentence: str
    images: int = 0
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, order=True)
class Place:
    """Where a pair is: the index of its partition among the run's manifests, and its row there."""

    partition: int
    row: int


class Tally:
    """statuses: pairs by status; problems: the most frequent first; edits: pairs with a picture, by edit."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.statuses: Counter[str] = Counter()
        self.edits: Counter[str] = Counter()
        self._pictured: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """Edit → the partitions that have pictures of it, and how many."""
        problems: dict[tuple[str, str], Problem] = {}
        for index, rows in all_narrow_rows(run):
            here: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
            pictured: Counter[str] = Counter()
            for id, edit, status, error in rows:
                self.statuses[status] += 1
                if status != "ok":
                    here[status, _sentence(error, id, status)][id] = None
                if status != "error":
                    pictured[edit] += 1
            # All rows of an image are in one partition, so each image is counted once.
            for (status, sentence), ids in here.items():
                if (status, sentence) not in problems and len(problems) >= KEPT_PROBLEMS:
                    sentence = OTHERS
                problem = problems.setdefault((status, sentence), Problem(status, sentence))
                problem.images += len(ids)
                problem.ids += list(ids)[: KEPT_IDS - len(problem.ids)]
            for edit, count in pictured.items():
                self.edits[edit] += count
                self._pictured[edit].append((index, count))
        self.problems = sorted(problems.values(), key=lambda problem: -problem.images)

    def sample(self, count: int, without: Collection[str] = ()) -> list[Place]:
        """Up to `count` pairs with pictures, in order, spread evenly over the run and over its edits but those
        `without`."""
        remaining = max(0, count)
        among = {edit: held for edit, held in self._pictured.items() if edit not in without}
        wanted: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)  # partition → edits, and which of their rows
        for turn, (edit, held) in enumerate(sorted(among.items(), key=lambda item: self.edits[item[0]])):
            share = min(self.edits[edit], remaining // (len(among) - turn))
            ends = np.cumsum([many for _, many in held])
            for number in evenly(self.edits[edit], share):
                at = int(np.searchsorted(ends, number, "right"))
                wanted[held[at][0]].add((edit, number - int(ends[at] - held[at][1])))
            remaining -= share
        chosen = []
        for index, rows in sorted(wanted.items()):
            seen: Counter[str] = Counter()
            for row, (_, edit, status, _) in enumerate(_narrow_rows(self._run, self._run.manifests[index])):
                if status != "error":
                    if (edit, seen[edit]) in rows:
                        chosen.append(Place(index, row))
                    seen[edit] += 1
        return chosen


def places_of(run: Run, keys: Collection[tuple[str, str]], partitions: Collection[str] | None = None) -> list[Place]:
    """The places of the pairs with these ids and edits, searched in these partitions or in all; failed pairs are left
    out."""
    if not keys:
        return []
    found = []
    for index, manifest in enumerate(run.manifests):
        if partitions is None or manifest.partition in partitions:
            for row, (id, edit, status, _) in enumerate(_narrow_rows(run, manifest)):
                if (id, edit) in keys and status != "error":
                    found.append(Place(index, row))
    return found


def rows_at(run: Run, places: Iterable[Place], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows at these places, in order, with these columns."""
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for place in places:
        wanted[place.partition].add(place.row)
    for index, rows in sorted(wanted.items()):
        first = 0
        for batch in run.batches(run.manifests[index], columns):
            for i in range(batch.num_rows):
                if first + i in rows:
                    yield batch.slice(i, 1).to_pylist()[0]
            first += batch.num_rows


def edited_pictures(
    run: Run, keys: Collection[tuple[str, str]], partitions: Collection[str] | None = None
) -> dict[tuple[str, str], bytes]:
    """The encoded edited pictures of some pairs by id and edit, searched in these partitions or in all."""
    rows = rows_at(run, places_of(run, keys, partitions), ["id", "edit", "edited_image"])
    return {(row["id"], row["edit"]): (row["edited_image"] or {}).get("bytes") or b"" for row in rows}


def all_narrow_rows(run: Run) -> Iterator[tuple[int, list[Sequence[str]]]]:
    """The index of each partition and its rows without pictures: id, edit, status, error. A few partitions are read at
    once."""
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(run.manifests), 2 * READERS):
            some = run.manifests[start : start + 2 * READERS]
            yield from enumerate(readers.map(lambda manifest: list(_narrow_rows(run, manifest)), some), start)


def evenly(total: int, count: int) -> list[int]:
    """`count` of the numbers 0 … total-1, evenly spread; all of them if there are no more."""
    count = min(total, count)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def busy_seconds(manifests: Iterable[Manifest]) -> float:
    """Seconds during which at least one partition was being worked on; pauses between two runs don't count."""
    spans = sorted((manifest.started, manifest.finished) for manifest in manifests)
    total, until = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total


def _narrow_rows(run: Run, manifest: Manifest) -> Iterator[Sequence[str]]:
    for batch in run.batches(manifest, ["id", "edit", "status", "error"]):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _sentence(error: str | None, id: str, status: str) -> str:
    """The error without the image's name, so that the same problem has the same text for every image."""
    sentence = (error or "").removeprefix(f"{id}: ").strip()
    return sentence or f"No reason is recorded for the status {status}."
