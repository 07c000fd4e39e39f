"""Everything countable about a run's pairs, from one pass over their narrow columns."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p2pz_ray.collection.manifest import Manifest
from p2pz_ray.evaluation.run import Run

KEPT_IDS = 50
"""Ids kept of each problem; the others are counted."""


@dataclass
class Problem:
    """Pairs that share a status other than ok and its sentence. images: how many; ids: the first of them."""

    status: str
    sentence: str
    images: int = 0
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, order=True)
class Place:
    """A pair: the place of its partition among the run's manifests, and its row there."""

    partition: int
    row: int


class Tally:
    """statuses: pairs by status; problems: the most frequent first; edits: pairs with a picture, by edit."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.statuses: Counter[str] = Counter()
        self.edits: Counter[str] = Counter()
        self._places: defaultdict[str, list[np.ndarray]] = defaultdict(list)
        problems: dict[tuple[str, str], Problem] = {}
        for index, manifest in enumerate(run.manifests):
            here: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
            pictured: defaultdict[str, list[int]] = defaultdict(list)
            for row, (id, edit, status, error) in enumerate(_narrow_rows(run, manifest)):
                self.statuses[status] += 1
                if status != "ok":
                    here[status, _sentence(error, id, status)][id] = None
                if status != "error":
                    pictured[edit].append(row)
            # An image stands in one partition alone, so its edits' rows meet here and nowhere else.
            for key, ids in here.items():
                problem = problems.setdefault(key, Problem(*key))
                problem.images += len(ids)
                problem.ids += list(ids)[: KEPT_IDS - len(problem.ids)]
            for edit, rows in pictured.items():
                self.edits[edit] += len(rows)
                self._places[edit].append(np.array(rows, np.int64) + (index << 32))
        self.problems = sorted(problems.values(), key=lambda problem: -problem.images)

    def sample(self, count: int) -> list[Place]:
        """Up to `count` pairs with pictures, evenly over the run and the same number of each edit, in order."""
        left, chosen = max(0, count), []
        for turn, (edit, places) in enumerate(sorted(self._places.items(), key=lambda item: self.edits[item[0]])):
            share = min(self.edits[edit], left // (len(self._places) - turn))
            chosen += list(np.concatenate(places)[evenly(self.edits[edit], share)])
            left -= share
        return [Place(int(place) >> 32, int(place) & 0xFFFFFFFF) for place in sorted(chosen)]

    def places_of(self, keys: Collection[tuple[str, str]]) -> list[Place]:
        """Where the pairs of these ids and edits are, of those that have a picture."""
        return places_of(self._run, keys)


def places_of(run: Run, keys: Collection[tuple[str, str]]) -> list[Place]:
    """Where a run has the pairs of these ids and edits; those that failed are left out."""
    if not keys:
        return []
    found = []
    for index, manifest in enumerate(run.manifests):
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


def edited_pictures(run: Run, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The encoded edited pictures of some pairs, by id and edit."""
    rows = rows_at(run, places_of(run, keys), ["id", "edit", "edited_image"])
    return {(row["id"], row["edit"]): (row["edited_image"] or {}).get("bytes") or b"" for row in rows}


def evenly(total: int, count: int) -> list[int]:
    """`count` of the numbers 0 … total-1, evenly spread; all of them if there are no more."""
    count = min(total, count)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def busy_seconds(manifests: Iterable[Manifest]) -> float:
    """How long at least one partition was being worked on: pauses between two runs of a job don't count."""
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
    """The error without the image's name before it, so that the same problem reads the same for every image."""
    sentence = (error or "").removeprefix(f"{id}: ").strip()
    return sentence or f"No reason is recorded for the status {status}."
