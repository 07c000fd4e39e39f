"""What each part of the method contributes: the paper's settings, and one thing changed at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pz_ray.lab.bench import Bench, Outcome
from p2pz_ray.lab.figures import MEASURES, Table, changed, measured

Shared = Mapping[str, Mapping[str, Any]]
"""The settings of inversion and guidance that all variants share."""
LAMBDAS = (0.0, 0.1, 0.3, 1.0, 2.0)
"""Guidance amounts, from none to too much."""


@dataclass(frozen=True)
class Part:
    """A variant: `inversion` and `guidance` override the settings that all variants share. swap: replace the word in
    the caption instead of adding a direction."""

    name: str
    inversion: Mapping[str, Any] = field(default_factory=dict)
    guidance: Mapping[str, Any] = field(default_factory=dict)
    swap: bool = False


PARTS = (
    Part("as the paper, with the trajectory as the reference"),
    Part("reference reconstructed, as the paper", guidance={"reference": "reconstruction"}),
    Part("as the authors' code", {"regularization": "official"}, {"form": "official", "strength": None}),
    Part("no guidance by the maps", guidance={"lambda_xa": 0.0}),
    Part("no regularization", {"regularization": "none"}),
    Part("no regularization and no guidance", {"regularization": "none"}, {"lambda_xa": 0.0}),
    Part("full regularization, all shifts", {"regularization": "full"}),
    Part("word swap", swap=True),
    Part("word swap and no guidance", guidance={"lambda_xa": 0.0}, swap=True),
    Part("DDIM inversion with a swapped word", {"regularization": "none"}, {"lambda_xa": 0.0}, True),
    Part("guided in the first half", guidance={"guided": 0.5}),
    Part("gradient every 2nd step", guidance={"guided_every": 2}),
    Part("negative every 2nd step", guidance={"negative_every": 2}),
    Part("ε of the comparing pass reused", guidance={"reuse": True}),
    Part("maps of the encoder and the middle alone", guidance={"layers": ("down_blocks", "mid_block")}),
    Part("maps of the decoder alone", guidance={"layers": ("up_blocks",)}),
    Part("order 2, up and down", {"order": 2}, {"order": 2}),
    Part("25 steps", {"steps": 25}),
    Part("20 steps", {"steps": 20}),
    Part("10 steps", {"steps": 10}),
    Part("100 steps", {"steps": 100}),
)


def outcome_of(bench: Bench, task: str, part: Part, shared: Shared) -> Outcome:
    """The outcome of one variant on a task; `shared` are the settings that it overrides."""
    up, down = shared.get("inversion", {}), shared.get("guidance", {})
    one = bench.task(task)
    return bench.outcome(one, bench.edited(one, {**up, **part.inversion}, {**down, **part.guidance}, part.swap))


def parts(bench: Bench, task: str, shared: Shared) -> Table:
    """Every variant beside the first, scene by scene."""
    rows = [["variant", *MEASURES, "the error beside the first", "… outside"]]
    whole: Outcome | None = None
    for part in PARTS:
        found = outcome_of(bench, task, part, shared)
        whole = whole or found
        beside = ["", ""] if found is whole else changed(bench.task(task), found, whole)
        rows.append([part.name, *measured(bench, bench.task(task), found), *beside])
    return rows


def guidance(
    bench: Bench, task: str, shared: Shared, lambdas: Sequence[float] = LAMBDAS
) -> tuple[Table, list[Outcome]]:
    """Each λ compared with the first, which must be 0: the table, and each outcome for a drawing."""
    rows = [["λ", *MEASURES, "the error beside no guidance", "… outside"]]
    outcomes: list[Outcome] = []
    for lambda_xa in lambdas:
        found = outcome_of(bench, task, Part("", guidance={"lambda_xa": lambda_xa}), shared)
        outcomes.append(found)
        beside = changed(bench.task(task), found, outcomes[0]) if lambda_xa else ["", ""]
        rows.append([f"{lambda_xa:g}", *measured(bench, bench.task(task), found), *beside])
    return rows, outcomes
