"""What was measured, as JSON and as tables."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu.speed import FEW, STEPS


@dataclass
class Report:
    """Rows by section, and the two files that show them."""

    out: Path
    facts: dict[str, Any]
    started: float
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def add(self, section: str, rows: list[dict[str, Any]]) -> None:
        self.rows.setdefault(section, []).extend(rows)
        for row in rows:
            print(f"[{self.spent:6.1f} s] {section}: {', '.join(map(_pair, row.items()))}", flush=True)
        self.write()

    def write(self) -> None:
        choice = chosen_batch(self.rows.get("speed, SD 1.5", []), self.facts.get("memory, GiB"))
        data = {"machine": self.facts, "batch_size": choice, "rows": self.rows, "notes": self.notes}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "accelerator.json").write_text(json.dumps(data, indent=1) + "\n")
        (self.out / "accelerator.md").write_text(self.table(choice))

    def table(self, choice: int | None) -> str:
        lines = [
            "; ".join(map(_pair, self.facts.items())),
            "",
            f"Seconds of {STEPS} steps are extrapolated from runs of {FEW[0]} and {FEW[1]}, after a warm-up run; "
            "errors of tensors are relative.",
            "",
        ]
        for section, rows in self.rows.items():
            keys = list(dict.fromkeys(key for row in rows for key in row))
            lines += [f"### {section}", "", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
            lines += ["| " + " | ".join(_shown(row.get(key)) for key in keys) + " |" for row in rows]
            lines.append("")
        if choice is not None:
            lines += [f"batch_size to choose for SD 1.5 at half precision: {choice}", ""]
        return "\n".join(lines + [f"- {note}" for note in self.notes]) + "\n"


def chosen_batch(rows: list[dict[str, Any]], memory: float | None) -> int | None:
    """The smallest batch that is within 5 % of the best speed, among those that leave a fifth of the memory free."""
    fits = [
        row
        for row in rows
        if row.get("editor") == "ours" and row["weights"] in ("float16", "bfloat16") and row["K"] == 1
        if "edits per second" in row
        if memory is None or row["weights, GiB"] + row["peak above that, GiB"] <= 0.8 * memory
    ]
    if not fits:
        return None
    best = max(row["edits per second"] for row in fits)
    return min(row["batch"] for row in fits if row["edits per second"] >= 0.95 * best)


def _pair(pair: tuple[str, Any]) -> str:
    return f"{pair[0]} {_shown(pair[1])}"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "0" if value == 0 else f"{value:.3g}"
    return str(value).replace("|", "/")
