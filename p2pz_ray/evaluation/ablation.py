"""The paper's ablation and a sweep of guidance and strength: what is varied, the trade-off drawn, the table printed.

The variants lead from plain inversion to the whole method, as the paper's table does:

    word swap     the source's word replaced in one sentence, no regularization, no guidance
    + L_auto      the same on a regularized inversion
    + direction   a direction from many sentences, still without guidance
    full          with cross-attention guidance
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pydantic import Field

from p2pz_ray.config import Amount, Section, Text, TranslateConfig
from p2pz_ray.evaluation.charts import number
from p2pz_ray.evaluation.config import EvaluateConfig

WIDTH, HEIGHT, MARGIN = 640, 420, 56


class AblationConfig(Section):
    """`jobs/ablation.py`: a translation and an evaluation, in variants.

    translate, evaluate: their own configurations, without output and run, which each variant has of its own below
    `output`. accuracy, structure: the scores that the drawing sets against one another.
    """

    translate: dict[str, Any]
    evaluate: dict[str, Any]
    output: Text
    guidance: list[Amount] = Field(default_factory=lambda: [0.05, 0.1, 0.2])
    strength: list[float] = Field(default_factory=lambda: [0.5, 1.0, 1.5])
    accuracy: Text = "clip_accuracy"
    structure: Text = "structure_distance"


@dataclass(frozen=True, eq=False)
class Variant:
    """name: of its run's folder. group: what a line of the drawing joins. changes: to the translation."""

    name: str
    group: str
    changes: Mapping[str, Any]


def variants(config: AblationConfig, edits: Mapping[str, Mapping[str, Any]], words: Mapping[str, Any]) -> list[Variant]:
    """All runs to make. words: edit → its two files of one sentence each, for the word swap."""
    off, plain = {"lambda_xa": 0.0}, {"regularization": "none"}
    swapped = {name: {**edit, "sentences": {"files": words[name]}, "count": 1} for name, edit in edits.items()}
    found = [
        Variant("word-swap", "ablation", {"edits": swapped, "inversion": plain, "guidance": off}),
        Variant("l-auto", "ablation", {"edits": swapped, "inversion": {"regularization": "sampled"}, "guidance": off}),
        Variant("direction", "ablation", {"guidance": off}),
        Variant("full", "ablation", {}),
    ]
    for strength in config.strength:
        stronger = {name: {**edit, "strength": strength} for name, edit in edits.items()}
        found += [
            Variant(
                f"strength-{strength:g}-guidance-{guidance:g}",
                f"strength {strength:g}",
                {"edits": stronger, "guidance": {"lambda_xa": guidance}},
            )
            for guidance in config.guidance
        ]
    return found


def translation(config: AblationConfig, variant: Variant) -> TranslateConfig:
    """The configuration of a variant's run."""
    return TranslateConfig.model_validate(
        {**_merged(config.translate, variant.changes), "output": run_of(config, variant)}
    )


def evaluation(config: AblationConfig, variant: Variant) -> EvaluateConfig:
    return EvaluateConfig.model_validate({**config.evaluate, "run": run_of(config, variant), "report": False})


def run_of(config: AblationConfig, variant: Variant) -> str:
    return f"{config.output.rstrip('/')}/{variant.name}"


def trade_off(points: Mapping[Variant, tuple[float, float]], accuracy: str, structure: str) -> str:
    """An SVG: each variant's (structure, accuracy), those of a group joined by a line. Up and to the left is better."""
    xs, ys = ([point[axis] for point in points.values()] for axis in (0, 1))
    left, right, low, high = 0.0, (max(xs, default=1.0) or 1.0) * 1.1, min([0.0, *ys]), max([1.0, *ys])

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = MARGIN + (point[0] - left) / (right - left) * (WIDTH - 2 * MARGIN)
        return x, HEIGHT - MARGIN - (point[1] - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    groups: dict[str, list[tuple[Variant, tuple[float, float]]]] = {}
    for variant, point in points.items():
        groups.setdefault(variant.group, []).append((variant, place(point)))
    drawn = ""
    for number_of, (group, found) in enumerate(groups.items()):
        colour = _COLOURS[number_of % len(_COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for _, (x, y) in found)
        drawn += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity=".5"/>'
        for variant, (x, y) in found:
            named = f"<title>{escape(variant.name)}</title>"
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{named}</circle>'
            if group == "ablation":
                drawn += f'<text x="{x + 7:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(variant.name)}</text>'
        key = MARGIN + 16 * number_of
        drawn += f'<text x="{WIDTH - MARGIN}" y="{key}" text-anchor="end" fill="{colour}">{escape(group)}</text>'
    bottom = HEIGHT - MARGIN
    axes = (
        f'<path d="M{MARGIN} {MARGIN}V{bottom}H{WIDTH - MARGIN}" fill="none" stroke="#555"/>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(structure)} (less is better)</text>'
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        f"{escape(accuracy)} (more is better)</text>"
        f'<text x="{MARGIN}" y="{bottom + 18}">0</text>'
        f'<text x="{WIDTH - MARGIN}" y="{bottom + 18}" text-anchor="end">{number(right)}</text>'
        f'<text x="{MARGIN - 6}" y="{bottom}" text-anchor="end">{number(low)}</text>'
        f'<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{number(high)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{axes}{drawn}</svg>\n'
    )


def table(found: Mapping[Variant, Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """A line a variant: the means of these scores, "–" where there is none."""
    heads = f"{'variant':<30}" + "".join(f"{name:>30}" for name in columns)
    lines = [
        f"{variant.name:<30}" + "".join(f"{_shown(estimates.get(name)):>30}" for name in columns)
        for variant, estimates in found.items()
    ]
    return [heads, *lines]


_COLOURS = ("#1f5fbf", "#b3261e", "#1d7a46", "#8f5d00", "#6b3fa0", "#00707a")


def _shown(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    if estimate["low"] is None:
        return number(estimate["mean"])
    return f"{number(estimate['mean'])} [{number(estimate['low'])}, {number(estimate['high'])}]"


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with sections changed key by key; edits, which are whole, are replaced."""
    made = dict(base)
    for key, value in changes.items():
        old = made.get(key)
        made[key] = {**old, **value} if isinstance(old, dict) and key != "edits" else value
    return made
