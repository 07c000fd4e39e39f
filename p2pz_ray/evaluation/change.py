"""How a score changes from one run to another, over the pairs that both have, in sums that merge."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from p2pz_ray.evaluation.matched import OTHERS
from p2pz_ray.evaluation.sums import EXTREMES, Histogram, Moments, Values


@dataclass(frozen=True, order=True)
class Spot:
    """A pair, and its partition in each of the runs. rank: what it is chosen by, the lowest first."""

    rank: float
    id: str
    edit: str
    partition: str
    other: str


@dataclass
class Change:
    """One score. before, after: moments of its values in the first and in the second run; change: of the second's minus
    the first's; more, less: of whether it is more, or less, in the second. lowest, highest: the pairs that change
    most."""

    before: Moments = field(default_factory=Moments)
    after: Moments = field(default_factory=Moments)
    change: Moments = field(default_factory=Moments)
    more: Moments = field(default_factory=Moments)
    less: Moments = field(default_factory=Moments)
    histogram: Histogram = field(default_factory=Histogram)
    lowest: list[Spot] = field(default_factory=list)
    highest: list[Spot] = field(default_factory=list)

    def add(self, other: Change) -> None:
        """Add the sums of other images."""
        for name in ("before", "after", "change", "more", "less", "histogram"):
            getattr(self, name).add(getattr(other, name))
        self.lowest = sorted(self.lowest + other.lowest)[:EXTREMES]
        self.highest = sorted(self.highest + other.highest)[-EXTREMES:]


@dataclass
class Changes:
    """pairs: how many both runs have; sample: a selection of them; scores: score → its change over the pairs that have
    it in both."""

    most: int
    """Pairs in the sample at most."""
    pairs: int = 0
    sample: list[Spot] = field(default_factory=list)
    scores: dict[str, Change] = field(default_factory=dict)

    def count(self, table: pa.Table, names: Sequence[str]) -> None:
        """Add matched pairs (see `Matched`): all pairs of some images."""
        keys = list(zip(*(table[name].to_pylist() for name in _PLACED), strict=True))
        self.pairs += len(keys)
        drawn = [Spot(_drawn(id, edit), id, edit, *where) for id, edit, *where in keys]
        self.sample = heapq.nsmallest(self.most, self.sample + drawn)
        images = np.unique([key[0] for key in keys], return_inverse=True)[1]
        for name in names:
            before, after = (_values(table, column) for column in (name, OTHERS + name))
            known = np.flatnonzero(np.isfinite(before) & np.isfinite(after))
            if len(known):
                before, after, change = before[known], after[known], (after - before)[known]
                ranked = np.argsort(change, kind="stable")
                ends = {int(place) for place in (*ranked[:EXTREMES], *ranked[-EXTREMES:])}
                spots = sorted(Spot(float(change[i]), *keys[known[i]]) for i in ends)
                made = Change(
                    before=Moments.of(before, images[known]),
                    after=Moments.of(after, images[known]),
                    change=Moments.of(change, images[known]),
                    more=Moments.of((change > 0).astype(np.float64), images[known]),
                    less=Moments.of((change < 0).astype(np.float64), images[known]),
                    histogram=Histogram.of(change),
                    lowest=spots[:EXTREMES],
                    highest=spots[-EXTREMES:],
                )
                self.scores.setdefault(name, Change()).add(made)

    def chosen(self) -> list[Spot]:
        """The pairs to show: the sample, and for each score those that differ most in either direction."""
        ends = (spot for change in self.scores.values() for spot in (*change.lowest, *change.highest))
        return list({(spot.id, spot.edit): spot for spot in (*self.sample, *ends)}.values())


_PLACED = ("id", "edit", "partition", f"{OTHERS}partition")


def _drawn(id: str, edit: str) -> float:
    """A number from 0 to 1 by which a pair is drawn, whatever partition it is in."""
    return int.from_bytes(hashlib.sha256(f"{id}\0{edit}".encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _values(table: pa.Table, column: str) -> Values:
    """A score's column; null becomes NaN."""
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[column].to_numpy(), np.float64)
