"""Means of scores with their 95 % confidence intervals, and RUN/metrics.json."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from p2pz_ray.evaluation.charts import number
from p2pz_ray.evaluation.interval import Estimate, mean, share_of
from p2pz_ray.evaluation.run import Run
from p2pz_ray.evaluation.scores import ScoreFolder, made_by, unreadable
from p2pz_ray.evaluation.tally import Tally

METRICS = "metrics.json"
SHARES = ("judge_", "efficientnet_lite0_")
"""How columns begin that hold 0 or 1."""
CLIP_ACCURACY = "clip_accuracy"


def is_share(score: str) -> bool:
    """Whether a score's mean is a share of pairs."""
    return score == CLIP_ACCURACY or score.startswith(SHARES)


class ScoreTable:
    """All scores of a run in memory, numbers alone. keys: id and edit of each row. made_by: score → what made it.

    values: score → (N,) float64, NaN where there is none. unreadable: pairs whose pictures couldn't be read.
    """

    def __init__(self, run: Run) -> None:
        self.ids: list[str] = []
        self.edits: list[str] = []
        self.made_by: dict[str, str] = {}
        self.unreadable = self.partitions = 0
        parts: list[tuple[int, pa.Table]] = []
        for _, table in ScoreFolder(run.store).tables(run.manifests):
            self.ids += table["id"].to_pylist()
            self.edits += table["edit"].to_pylist()
            self.made_by.update(made_by(table))
            self.unreadable += unreadable(table)
            self.partitions += 1
            parts.append((table.num_rows, table))
        self.values = {name: np.concatenate([_column(name, *part) for part in parts]) for name in self.made_by}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], dict[str, float]]:
        """The scores of some pairs, by id and edit; without those that a pair doesn't have."""
        wanted = {place: key for place, key in enumerate(zip(self.ids, self.edits, strict=True)) if key in keys}
        return {
            key: {name: float(v[place]) for name, v in self.values.items() if np.isfinite(v[place])}
            for place, key in wanted.items()
        }

    @cached_property
    def _images(self) -> NDArray[np.intp] | None:
        """A number of each row's image, None where no image has two rows."""
        numbers: dict[str, int] = {}
        found = np.array([numbers.setdefault(id, len(numbers)) for id in self.ids], np.intp)
        return found if len(numbers) < len(found) else None

    def estimates(self, edit: str | None = None) -> dict[str, Estimate]:
        """Of each score, over all pairs or those of an edit; with CLIP-Acc where CLIP judged."""
        rows = np.ones(len(self), bool) if edit is None else np.array([found == edit for found in self.edits], bool)
        images = self._images if edit is None else None
        found: dict[str, Estimate | None] = {}
        if {"clip_source", "clip_target"} <= set(self.values):
            before, after = (self.values[f"clip_{side}"][rows] for side in ("source", "target"))
            judged = ~np.isnan(before) & ~np.isnan(after)
            found[CLIP_ACCURACY] = share_of((after > before)[judged], None if images is None else images[judged])
        for name, column in self.values.items():
            known = ~np.isnan(column[rows])
            values, own = column[rows][known], None if images is None else images[known]
            found[name] = share_of(values > 0, own) if is_share(name) else mean(values, own)
        return {name: estimate for name, estimate in found.items() if estimate is not None}


def extremes(table: ScoreTable, count: int = 3) -> set[tuple[str, str]]:
    """Id and edit of the pairs with the lowest and highest values of each score, `count` each."""
    places: set[int] = set()
    for values in table.values.values():
        known = np.flatnonzero(np.isfinite(values))
        ranked = known[np.argsort(values[known], kind="stable")]
        places |= {int(place) for place in (*ranked[:count], *ranked[-count:])}
    return {(table.ids[place], table.edits[place]) for place in places}


def summarize(run: Run, table: ScoreTable, tally: Tally) -> dict[str, Any]:
    """What metrics.json holds: the same for the same run and scores."""
    statuses = {status: tally.statuses[status] for status in ("ok", "error", "flagged")}
    return {
        "complete": run.complete and table.partitions == len(run.plan.partitions),
        "partitions": {
            "planned": len(run.plan.partitions),
            "committed": len(run.manifests),
            "scored": table.partitions,
        },
        "pairs": {"all": tally.statuses.total(), **statuses, "scored": len(table), "unreadable": table.unreadable},
        "made_by": dict(sorted(table.made_by.items())),
        "all": {name: asdict(found) for name, found in table.estimates().items()},
        "edits": {
            edit: {name: asdict(found) for name, found in table.estimates(edit).items()}
            for edit in sorted(set(table.edits))
        },
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """metrics.json as a few lines to print."""
    pairs = found["pairs"]
    spoilt = [f"{pairs['error']:,} failed"] * bool(pairs["error"])
    spoilt += [f"{pairs['unreadable']:,} can't be read"] * bool(pairs["unreadable"])
    done = "" if found["complete"] else " so far"
    said = [f"{pairs['scored']:,} pairs{done}" + (f", of which {' and '.join(spoilt)}" if spoilt else "")]
    for name, value in found["all"].items():
        interval = "" if value["low"] is None else f"  [{number(value['low'])}, {number(value['high'])}]"
        made = found["made_by"].get(name, found["made_by"].get("clip_source", ""))
        said.append(f"  {name:<28} {number(value['mean'])}{interval}  {made}")
    return said


def _column(name: str, rows: int, table: pa.Table) -> NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(rows, np.nan)
    values: NDArray[np.float64] = table[name].to_numpy().astype(np.float64)  # null becomes NaN
    return values
