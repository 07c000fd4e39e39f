"""RUN/metrics.json, and the scores of some pairs of a run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from p2pz_ray.amount import number
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.commit.run import Run
from p2pz_ray.evaluation.scores import ScoreFolder, made_by
from p2pz_ray.evaluation.sums import Sums
from p2pz_ray.evaluation.tally import Tally

METRICS = "metrics.json"


def sums_of(run: Run, manifests: Sequence[Manifest] | None = None) -> Sums:
    """The sums of a run's scores, or of those of some partitions."""
    sums = Sums()
    for manifest, table in ScoreFolder(run.store).tables(run.manifests if manifests is None else manifests):
        sums.add(Sums.of(manifest.partition, table))
    return sums


class ScoreTable:
    """The scores of a run, or of some of its partitions, in memory, numbers alone. ids, edits: of each row. made_by:
    score → what computed it. values: score → (N,) float64, NaN where there is none."""

    def __init__(self, run: Run, manifests: Sequence[Manifest] | None = None) -> None:
        self.ids: list[str] = []
        self.edits: list[str] = []
        self.made_by: dict[str, str] = {}
        parts: list[tuple[int, pa.Table]] = []
        for _, table in ScoreFolder(run.store).tables(run.manifests if manifests is None else manifests):
            self.ids += table["id"].to_pylist()
            self.edits += table["edit"].to_pylist()
            self.made_by.update(made_by(table))
            parts.append((table.num_rows, table))
        self.values = {name: np.concatenate([_column(name, *part) for part in parts]) for name in self.made_by}

    def rows(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], dict[str, float]]:
        """The scores of some pairs by id and edit; scores that a pair doesn't have are left out."""
        wanted = {place: key for place, key in enumerate(zip(self.ids, self.edits, strict=True)) if key in keys}
        return {
            key: {name: float(v[place]) for name, v in self.values.items() if np.isfinite(v[place])}
            for place, key in wanted.items()
        }


def summarize(run: Run, sums: Sums, tally: Tally) -> dict[str, Any]:
    """The content of metrics.json: the same for the same run and scores."""
    statuses = {status: tally.statuses[status] for status in ("ok", "error", "flagged")}
    return {
        "complete": run.complete and sums.partitions == len(run.plan.partitions),
        "partitions": {
            "planned": len(run.plan.partitions),
            "committed": len(run.manifests),
            "scored": sums.partitions,
        },
        "pairs": {"all": tally.statuses.total(), **statuses, "scored": sums.rows, "unreadable": sums.unreadable},
        "made_by": dict(sorted(sums.made_by.items())),
        "all": {name: asdict(found) for name, found in sums.estimates().items()},
        "edits": {edit: {name: asdict(found) for name, found in sums.estimates(edit).items()} for edit in sums.edits},
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
