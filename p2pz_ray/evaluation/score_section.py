"""What the scores say, as HTML: one answer to each question, and behind it all scores with their intervals,
distributions and makers."""

from collections.abc import Mapping, Sequence

import numpy as np

from p2pz_ray.evaluation.charts import histogram, number
from p2pz_ray.evaluation.interval import Estimate
from p2pz_ray.evaluation.markup import text
from p2pz_ray.evaluation.measure import QUESTIONS, measure, told_apart
from p2pz_ray.evaluation.summary import CLIP_ACCURACY, ScoreTable, is_share

_ARROWS = {"more": "↑ more is better", "less": "↓ less is better", None: "neither way is better"}
Columns = Sequence[tuple[str, Mapping[str, Estimate]]]


def headlines(estimates: Mapping[str, Estimate]) -> list[tuple[str, str, str, str]]:
    """The most telling score of each question as a tile: name, number, note, kind."""
    firsts = [names[0] for question, names in told_apart(estimates).items() if question != "other"]
    return [(measure(c).name, value(c, estimates[c].mean), interval(c, estimates[c]), "") for c in firsts]


def scores_body(table: ScoreTable, student: ScoreTable | None = None) -> str:
    """For each question its first score, and folded below it a table of means a score and edit, and distributions; ""
    without scores.

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
    groups = "\n".join(
        _group(QUESTIONS[question], found, columns, table) for question, found in told_apart(names).items()
    )
    return f"""<div class="questions">
{groups}
</div>
<p class="note">Means over all {len(table):,} scored pairs that have the score, with the interval that holds the true
mean with 95 %.</p>"""


def _group(question: str, names: Sequence[str], columns: Columns, table: ScoreTable) -> str:
    """A question, its first score at a glance, and all of them folded."""
    first = names[0]
    if question == QUESTIONS["other"]:
        return f'<article class="question">{_in_full(question, names, columns, table)}</article>'
    answers = "".join(
        f"<p><b>{value(first, found[first].mean)}</b> <small>{text(head) if len(columns) > 1 else ''} "
        f"{interval(first, found[first])}</small></p>"
        for head, found in columns
        if first in found
    )
    return f"""<article class="question"><h3>{question}</h3>
<p class="first">{text(measure(first).name)}</p>{answers}
<p><small>{text(_made_by(first, table))}</small></p>
{_in_full("", names, columns, table)}</article>"""


def _in_full(title: str, names: Sequence[str], columns: Columns, table: ScoreTable) -> str:
    """The scores folded below a title, or below how many they are."""
    rows = "".join(_row(name, columns, table) for name in names)
    heads = "".join(f'<th scope="col">{text(head)}</th>' for head, _ in columns)
    drawn = "".join(
        f"<figure><figcaption>{text(measure(name).name)}</figcaption>"
        f"{histogram(table.values[name], text(measure(name).name))}</figure>"
        for name in names
        if name in table.values and np.isfinite(table.values[name]).any() and not is_share(name)
    )
    count = "1 score" if len(names) == 1 else f"{len(names)} scores"
    label = title or measure(names[0]).name
    return f"""<details><summary>{title or f"{count} in full"}</summary>
<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}, in full">
<table class="scores"><thead><tr><td></td>{heads}<th scope="col">made by</th></tr></thead><tbody>{rows}</tbody></table>
</div><div class="charts">{drawn}</div></details>"""


def _row(name: str, columns: Columns, table: ScoreTable) -> str:
    known = measure(name)
    cells = "".join(_cell(name, found.get(name)) for _, found in columns)
    return (
        f'<tr><th scope="row">{text(known.name)} <small><code>{text(name)}</code> {_ARROWS[known.better]}</small></th>'
        f"{cells}<td><small>{text(_made_by(name, table))}</small></td></tr>"
    )


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
