"""The paper's ablation and a sweep of guidance and strength: the variants, a plot of the trade-off, and a table.

The steps lead from plain inversion to the whole method. Each adds one thing to the step before:

    word-swap    the word swapped in the caption; no regularization, no direction, no guidance
    l-auto       the same on a regularized inversion
    direction    a direction from many sentences
    full         with cross-attention guidance

All images have the same caption, "a photo of a SOURCE". A direction made from this one sentence then equals the word
swap: c + Δc = φ(caption with the word replaced).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from pydantic import Field

from p2pz_ray.amount import number
from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.config.section import Amount, Section, Text
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import article

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 600, 32, 380
"""Edges of the plot in pixels; the legend is to the right of it."""


@dataclass(frozen=True)
class Step:
    """A step of the paper's ablation. swap: replace the word in the caption instead of adding a direction. guided: by
    cross-attention maps."""

    name: str
    swap: bool
    regularization: Literal["none", "sampled"]
    guided: bool


STEPS = (
    Step("word-swap", swap=True, regularization="none", guided=False),
    Step("l-auto", swap=True, regularization="sampled", guided=False),
    Step("direction", swap=False, regularization="sampled", guided=False),
    Step("full", swap=False, regularization="sampled", guided=True),
)


class AblationConfig(Section):
    """`jobs/ablation.py`: a translation and an evaluation, in several variants.

    translate, evaluate: their configurations without `output` and `run`. Each variant has a run of its own in the
    folder `output`, and they share the inversions kept there. accuracy, structure: the scores plotted against each
    other. guidance, strength: the values of the sweep; empty means no sweep.
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
    """name: of the run's folder. group: the line of the plot that it is on. label: its name on that line. changes: to
    the translation's configuration."""

    name: str
    group: str
    label: str
    changes: Mapping[str, Any]


def caption(word: str) -> str:
    """The caption of all images in the ablation."""
    return f"a photo of {article(word)} {word}"


def words_of(config: AblationConfig) -> dict[str, tuple[str, str]]:
    """Edit → its two words. Raises ConfigError if an edit has none, or the edits have different source words."""
    words = {}
    for name, edit in (config.translate.get("edits") or {}).items():
        if not (isinstance(edit, dict) and edit.get("source") and edit.get("target")):
            raise ConfigError(f"translate.edits.{name} has no words: give source and target, for the word swap.")
        words[name] = (str(edit["source"]), str(edit["target"]))
    sources = sorted({source for source, _ in words.values()})
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        raise ConfigError(f"translate.edits begin with {found}: give edits of one source word, and others another job.")
    return words


def variants(config: AblationConfig, files: Mapping[str, Mapping[str, str]]) -> list[Variant]:
    """All runs to make. files: edit → its two files of sentences for the word swap, each holding one caption."""
    edits, [source, *_] = config.translate["edits"], [source for source, _ in words_of(config).values()]
    swapped = {name: {**edit, "sentences": {"files": files[name]}, "count": 1} for name, edit in edits.items()}
    found = [
        Variant(
            step.name,
            "ablation",
            step.name,
            {
                "captions": {"column": None, "model": None, "otherwise": caption(source)},
                "edits": swapped if step.swap else edits,
                "inversion": {"regularization": step.regularization},
                # Swapping a word has no strength, whatever the checkpoint's default is.
                "guidance": ({} if step.guided else {"lambda_xa": 0.0}) | ({"strength": 1.0} if step.swap else {}),
            },
        )
        for step in STEPS
    ]
    for strength in config.strength:
        stronger = {name: {**edit, "strength": strength} for name, edit in edits.items()}
        found += [
            Variant(
                f"strength-{strength:g}-guidance-{guidance:g}",
                f"strength {strength:g}",
                f"{guidance:g}",
                {"edits": stronger, "guidance": {"lambda_xa": guidance}},
            )
            for guidance in config.guidance
        ]
    return found


def translation(config: AblationConfig, variant: Variant) -> TranslateConfig:
    """The configuration of a variant's run, which reuses the inversions of the runs before it."""
    base = {**config.translate, "inversion": {"cache": f"{_base(config)}/inversions", **_inversion(config)}}
    return TranslateConfig.model_validate({**_merged(base, variant.changes), "output": run_of(config, variant)})


def evaluation(config: AblationConfig, variant: Variant) -> EvaluateConfig:
    return EvaluateConfig.model_validate({**config.evaluate, "run": run_of(config, variant), "report": False})


def run_of(config: AblationConfig, variant: Variant) -> str:
    return f"{_base(config)}/{variant.name}"


def trade_off(points: Mapping[Variant, tuple[float, float]], accuracy: str, structure: str) -> str:
    """An SVG: each variant's (structure, accuracy), those of a group joined by a line. Up and to the left is better."""
    xs, ys = ([point[axis] for point in points.values()] for axis in (0, 1))
    right, low, high = (max(xs, default=1.0) or 1.0) * 1.05, min([0.0, *ys]), max([1.0, *ys])

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / right * (RIGHT - LEFT), BOTTOM - (y - low) / (high - low) * (BOTTOM - TOP)

    groups: dict[str, list[tuple[Variant, tuple[float, float]]]] = {}
    for variant, point in points.items():
        groups.setdefault(variant.group, []).append((variant, place(*point)))
    drawn = ""
    for part in range(5):
        x, y = right * part / 4, low + (high - low) * part / 4
        across, up = place(x, low)[0], place(0, y)[1]
        drawn += f'<path d="M{LEFT} {up:.1f}H{RIGHT}M{across:.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>'
        drawn += _text(LEFT - 8, up + 4, number(y), "end") + _text(across, BOTTOM + 18, number(x), "middle")
    for i, (group, found) in enumerate(groups.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for _, (x, y) in found)
        drawn += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity=".5"/>'
        for number_of, (variant, (x, y)) in enumerate(found):
            named = f"<title>{escape(variant.name)}</title>"
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{named}</circle>'
            # Labels go above and below in turn: neighbours on a line are often close.
            drawn += _text(x, y + (18 if number_of % 2 else -9), variant.label, "middle", colour)
        drawn += _text(RIGHT + 24, TOP + 4 + 18 * i, group, "start", colour)
    drawn += _text(RIGHT + 24, TOP + 16 + 18 * len(groups), "numbers: guidance λ", "start")
    drawn += _text((LEFT + RIGHT) / 2, HEIGHT - 12, f"{structure} (less is better)", "middle")
    turned = f'transform="rotate(-90 16 {(TOP + BOTTOM) / 2})"'
    drawn += _text(16, (TOP + BOTTOM) / 2, f"{accuracy} (more is better)", "middle", more=turned)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{drawn}</svg>\n'
    )


def table(found: Mapping[Variant, Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """One row per variant: the means of these scores, "–" for none."""
    heads = f"{'variant':<30}" + "".join(f"{name:>30}" for name in columns)
    lines = [
        f"{variant.name:<30}" + "".join(f"{_shown(estimates.get(name)):>30}" for name in columns)
        for variant, estimates in found.items()
    ]
    return [heads, *lines]


_COLOURS = ("#1f5fbf", "#b3261e", "#1d7a46", "#8f5d00", "#6b3fa0", "#00707a")


def _text(x: float, y: float, said: str, anchor: str, colour: str = "#333", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {more}>{escape(said)}</text>'


def _shown(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    if estimate["low"] is None:
        return number(estimate["mean"])
    return f"{number(estimate['mean'])} [{number(estimate['low'])}, {number(estimate['high'])}]"


def _base(config: AblationConfig) -> str:
    return config.output.rstrip("/")


def _inversion(config: AblationConfig) -> dict[str, Any]:
    given = config.translate.get("inversion")
    return given if isinstance(given, dict) else {}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with sections changed key by key; edits, which are whole, are replaced."""
    made = dict(base)
    for key, value in changes.items():
        old = made.get(key)
        made[key] = {**old, **value} if isinstance(old, dict) and key != "edits" else value
    return made
