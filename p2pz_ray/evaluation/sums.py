"""The scores of a run in a few kilobytes: sums per partition, which add up to the same total in any order.

A partition's sums depend on its rows alone, and they are added exactly.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from p2pz_ray.evaluation.interval import Estimate, estimate, share_estimate
from p2pz_ray.evaluation.scores import made_by, unreadable

EXTREMES = 3
"""Pairs kept with the lowest and with the highest values of each score."""
BINS = 1024
"""Bins of a histogram at most."""
SHARES = ("judge_", "efficientnet_lite0_")
"""Prefixes of columns that hold 0 or 1."""
CLIP_ACCURACY = "clip_accuracy"
Values = NDArray[np.float64]


def is_share(score: str) -> bool:
    """Whether a score's mean is a share of pairs."""
    return score == CLIP_ACCURACY or score.startswith(SHARES)


@dataclass
class Moments:
    """Moments of one score's values, grouped by image: the number of values and of images; Σ of the values; Σ over
    images of their sum squared, of their sum times their count, and of their count squared."""

    count: int = 0
    images: int = 0
    total: Fraction = Fraction(0)
    squared: Fraction = Fraction(0)
    crossed: Fraction = Fraction(0)
    counts: int = 0

    @classmethod
    def of(cls, values: Values, images: NDArray[np.intp]) -> Moments:
        """images: the number of each value's image."""
        _, places, many = np.unique(images, return_inverse=True, return_counts=True)
        sums = np.bincount(places, values)
        squared, crossed = math.fsum(sums * sums), math.fsum(sums * many)
        total = Fraction(math.fsum(values))
        return cls(len(values), len(many), total, Fraction(squared), Fraction(crossed), int((many * many).sum()))

    def add(self, other: Moments) -> None:
        """Add the moments of other images."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def estimate(self, share: bool) -> Estimate | None:
        """The mean, or the share of ones, with its interval; None for no values."""
        if not self.count:
            return None
        middle = self.total / self.count
        off = float(max(Fraction(0), self.squared - 2 * middle * self.crossed + middle**2 * self.counts))
        make = share_estimate if share else estimate
        return make(float(middle), self.count, self.images, off)


@dataclass
class Histogram:
    """Counts of values by the number of their bin. Bins are 2^exponent wide and start at 0, so two neighbours make one
    bin of a coarser histogram."""

    exponent: int = -1074
    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, values: Values) -> Histogram:
        made = cls()
        if len(values):
            # No finer than float64 can tell apart.
            made.exponent = max(-1074, math.frexp(float(np.abs(values).max()))[1] - 53)
            made.counts.update(int(math.ldexp(value, -made.exponent) // 1) for value in values.tolist())
            made._fit()
        return made

    def add(self, other: Histogram) -> None:
        exponent = max(self.exponent, other.exponent)
        self._coarsen(exponent - self.exponent)
        for number, many in other.counts.items():
            self.counts[number >> (exponent - other.exponent)] += many
        self._fit()

    def bins(self) -> tuple[Values, Values]:
        """The middles of the bins, and their counts."""
        numbers = sorted(self.counts)
        middles = np.array([math.ldexp(number + 0.5, self.exponent) for number in numbers])
        return middles, np.array([self.counts[number] for number in numbers], np.float64)

    def _fit(self) -> None:
        if self.counts:
            low, high, by = min(self.counts), max(self.counts), 0
            while (high >> by) - (low >> by) >= BINS:
                by += 1
            self._coarsen(by)

    def _coarsen(self, by: int) -> None:
        if by:
            coarse: Counter[int] = Counter()
            for number, many in self.counts.items():
                coarse[number >> by] += many
            self.exponent, self.counts = self.exponent + by, coarse


@dataclass(frozen=True, order=True)
class Extreme:
    """A score's value, and the pair that has it."""

    value: float
    id: str
    edit: str
    partition: str


@dataclass
class Sums:
    """rows: scored pairs; partitions: how many they are in; unreadable: pairs whose pictures couldn't be read; made_by:
    score → what made it; scopes: edit, or None for all → score → its moments; lowest, highest: score → pairs."""

    rows: int = 0
    partitions: int = 0
    unreadable: int = 0
    made_by: dict[str, str] = field(default_factory=dict)
    scopes: dict[str | None, dict[str, Moments]] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    lowest: dict[str, list[Extreme]] = field(default_factory=dict)
    highest: dict[str, list[Extreme]] = field(default_factory=dict)

    @classmethod
    def of(cls, partition: str, table: pa.Table) -> Sums:
        """The sums of a partition's scores, which must include all rows of each image."""
        ids, edits = table["id"].to_pylist(), table["edit"].to_pylist()
        made = cls(len(ids), 1, unreadable(table), made_by(table))
        numbers: dict[str, int] = {}
        images = np.array([numbers.setdefault(id, len(numbers)) for id in ids], np.intp)
        rows: defaultdict[str | None, list[int]] = defaultdict(list)
        for row, edit in enumerate(edits):
            rows[edit].append(row)
        rows[None] = list(range(len(ids)))
        columns = {name: table[name].to_numpy().astype(np.float64) for name in made.made_by}  # null becomes NaN
        judged = dict(columns)
        if {"clip_source", "clip_target"} <= set(columns):
            before, after = columns["clip_source"], columns["clip_target"]
            judged[CLIP_ACCURACY] = np.where(np.isnan(before) | np.isnan(after), np.nan, after > before)
        for name, values in judged.items():
            values = np.where(np.isnan(values), np.nan, values > 0) if is_share(name) else values
            for scope, own in rows.items():
                known = [row for row in own if math.isfinite(values[row])]
                if known:
                    made.scopes.setdefault(scope, {})[name] = Moments.of(values[known], images[known])
        for name, values in columns.items():
            finite = np.flatnonzero(np.isfinite(values))
            made.histograms[name] = Histogram.of(values[finite])
            ranked = sorted(Extreme(float(values[row]), ids[row], edits[row], partition) for row in finite)
            made.lowest[name], made.highest[name] = ranked[:EXTREMES], ranked[-EXTREMES:]
        for edit in rows:
            made.scopes.setdefault(edit, {})
        return made

    def add(self, other: Sums) -> None:
        """Add the sums of other partitions."""
        self.rows += other.rows
        self.partitions += other.partitions
        self.unreadable += other.unreadable
        for name, maker in other.made_by.items():
            self.made_by[name] = max(maker, self.made_by.get(name, maker))
        for scope, found in other.scopes.items():
            mine = self.scopes.setdefault(scope, {})
            for name, moments in found.items():
                mine.setdefault(name, Moments()).add(moments)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).add(histogram)
        for name in other.lowest:
            self.lowest[name] = sorted(self.lowest.get(name, []) + other.lowest[name])[:EXTREMES]
            self.highest[name] = sorted(self.highest.get(name, []) + other.highest[name])[-EXTREMES:]

    @property
    def edits(self) -> list[str]:
        """The names of the edits, sorted."""
        return sorted(edit for edit in self.scopes if edit is not None)

    def estimates(self, edit: str | None = None) -> dict[str, Estimate]:
        """Score → estimate, over all pairs or those of an edit; with CLIP-Acc if there are CLIP scores."""
        found = {name: moments.estimate(is_share(name)) for name, moments in self.scopes.get(edit, {}).items()}
        order = [CLIP_ACCURACY, *self.made_by]
        named = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
        return {name: made for name in named if (made := found[name]) is not None}

    def extremes(self) -> list[Extreme]:
        """The pairs with the lowest and highest values of each score."""
        return [pair for ends in (self.lowest, self.highest) for pairs in ends.values() for pair in pairs]
