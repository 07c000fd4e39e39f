"""What the scores say, as HTML: means with their intervals, distributions, what made each."""

from collections.abc import Mapping

import numpy as np

from p2pz_ray.evaluation.cards import less_is_better
from p2pz_ray.evaluation.charts import histogram, number
from p2pz_ray.evaluation.interval import Estimate
from p2pz_ray.evaluation.markup import text
from p2pz_ray.evaluation.summary import CLIP_ACCURACY, ScoreTable, is_share

HEADLINES = (
    (CLIP_ACCURACY, "closer to the target's text in CLIP"),
    ("judge_target", "the judge sees the target"),
    ("efficientnet_lite0_closer", "closer to the target in EfficientNet-lite0"),
    ("structure_distance", "structure distance, DINO"),
    ("structure_judge", "structure distance, judge"),
    ("structure_efficientnet_lite0", "structure distance, EfficientNet-lite0"),
    ("background_lpips", "background LPIPS"),
    ("background_stlpips", "background ST-LPIPS"),
    ("truth_psnr", "dB PSNR against the truth"),
)


def headlines(estimates: Mapping[str, Estimate], most: int = 4) -> list[tuple[str, str, str, str]]:
    """The most telling scores as tiles: name, number, note, kind."""
    return [
        (words, value(name, estimates[name].mean), interval(name, estimates[name]), "")
        for name, words in HEADLINES
        if name in estimates
    ][:most]


def scores_body(table: ScoreTable, student: ScoreTable | None = None) -> str:
    """A table of means a score and edit, and a distribution of each score; "" without scores.

    student: another run's scores, shown beside those that the same thing made.
    """
    if not len(table) or not table.made_by:
        return ""
    edits = sorted(set(table.edits))
    columns = [("all", table.estimates())] if len(edits) != 1 else []
    columns += [(edit, table.estimates(edit)) for edit in edits]
    names = list(dict.fromkeys(name for _, found in columns for name in found))
    if student is not None and len(student):
        alike = {name for name in names if _made_by(name, table) == _made_by(name, student)}
        columns.append(("student", {name: e for name, e in student.estimates().items() if name in alike}))
    heads = "".join(f'<th scope="col">{text(head)}</th>' for head, _ in columns)
    rows = "".join(
        f'<tr><th scope="row">{text(name)} <small>{"less" if less_is_better(name) else "more"} is better</small></th>'
        + "".join(_cell(name, found.get(name)) for _, found in columns)
        + f"<td><small>{text(_made_by(name, table))}</small></td></tr>"
        for name in names
    )
    drawn = "".join(
        f"<figure><figcaption>{text(name)}</figcaption>{histogram(values, text(name))}</figure>"
        for name, values in table.values.items()
        if np.isfinite(values).any() and not is_share(name)
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Table of scores">
<table class="scores"><thead><tr><td></td>{heads}<th scope="col">made by</th></tr></thead><tbody>{rows}</tbody></table>
</div>
<p class="note">Means over all {len(table):,} scored pairs that have the score, with the interval that holds the true
mean with 95 %.</p>
<div class="charts">{drawn}</div>"""


def value(name: str, found: float) -> str:
    return f"{100 * found:.1f} %" if is_share(name) else number(found)


def interval(name: str, found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "one image alone"
    return f"{value(name, found.low)} to {value(name, found.high)}"


def _cell(name: str, found: Estimate | None) -> str:
    if found is None:
        return "<td>–</td>"
    return f"<td><b>{value(name, found.mean)}</b> <small>{interval(name, found)} · {found.count:,}</small></td>"


def _made_by(name: str, table: ScoreTable) -> str:
    return table.made_by.get("clip_target" if name == CLIP_ACCURACY else name, "")
