"""The scores as HTML, by question: the main score, and folded below it all scores with their intervals, distributions
and the models that computed them."""

from collections.abc import Mapping, Sequence

from p2pz_ray.amount import number
from p2pz_ray.evaluation.interval import Estimate
from p2pz_ray.evaluation.sums import CLIP_ACCURACY, Sums, is_share
from p2pz_ray.report.charts import bars
from p2pz_ray.report.markup import text
from p2pz_ray.report.measure import QUESTIONS, measure, told_apart

_ARROWS = {"more": "↑ more is better", "less": "↓ less is better", None: "neither is better"}
Columns = Sequence[tuple[str, Mapping[str, Estimate]]]


def headlines(estimates: Mapping[str, Estimate]) -> list[tuple[str, str, str, str]]:
    """The main score of each question as a tile: name, number, note, kind."""
    main = [names[0] for question, names in told_apart(estimates).items() if question != "other"]
    return [(measure(c).name, value(c, estimates[c].mean), interval(c, estimates[c]), "") for c in main]


def scores_body(sums: Sums, student: Sums | None = None) -> str:
    """The section: for each question its main score, and folded below it a table of the means by score and edit, and
    histograms. "" without scores.

    student: another run's scores, shown beside if they were computed by the same model.
    """
    if not sums.rows or not sums.made_by:
        return ""
    edits = sums.edits
    columns = [("all", sums.estimates())] if len(edits) != 1 else []
    columns += [(edit, sums.estimates(edit)) for edit in edits]
    names = list(dict.fromkeys(name for _, found in columns for name in found))
    if student is not None and student.rows:
        alike = {name for name in names if _made_by(name, sums) == _made_by(name, student)}
        columns.append(("student", {name: e for name, e in student.estimates().items() if name in alike}))
    groups = "\n".join(
        _group(QUESTIONS[question], found, columns, sums) for question, found in told_apart(names).items()
    )
    return f"""<div class="questions">
{groups}
</div>
<p class="note">Means over all {sums.rows:,} scored pairs that have the score, with the 95 % confidence interval of
the mean.</p>"""


def _group(question: str, names: Sequence[str], columns: Columns, sums: Sums) -> str:
    """A question with its main score, and all of its scores folded."""
    first = names[0]
    if question == QUESTIONS["other"]:
        return f'<article class="question">{_in_full(question, names, columns, sums)}</article>'
    answers = "".join(
        f"<p><b>{value(first, found[first].mean)}</b> <small>{text(head) if len(columns) > 1 else ''} "
        f"{interval(first, found[first])}</small></p>"
        for head, found in columns
        if first in found
    )
    return f"""<article class="question"><h3>{question}</h3>
<p class="first">{text(measure(first).name)}</p>{answers}
<p><small>{text(_made_by(first, sums))}</small></p>
{_in_full("", names, columns, sums)}</article>"""


def _in_full(title: str, names: Sequence[str], columns: Columns, sums: Sums) -> str:
    """The scores, folded below a title; "" titles them with their number."""
    rows = "".join(_row(name, columns, sums) for name in names)
    heads = "".join(f'<th scope="col">{text(head)}</th>' for head, _ in columns)
    drawn = "".join(
        f"<figure><figcaption>{text(measure(name).name)}</figcaption>{_distribution(name, sums)}</figure>"
        for name in names
        if sums.lowest.get(name) and not is_share(name)
    )
    count = "1 score" if len(names) == 1 else f"{len(names)} scores"
    label = title or measure(names[0]).name
    return f"""<details><summary>{title or f"{count} in full"}</summary>
<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}, in full">
<table class="scores"><thead><tr><td></td>{heads}<th scope="col">made by</th></tr></thead><tbody>{rows}</tbody></table>
</div><div class="charts">{drawn}</div></details>"""


def _distribution(name: str, sums: Sums) -> str:
    ends = sums.lowest[name][0].value, sums.highest[name][-1].value
    return bars(*sums.histograms[name].bins(), ends, text(measure(name).name))


def _row(name: str, columns: Columns, sums: Sums) -> str:
    known = measure(name)
    cells = "".join(_cell(name, found.get(name)) for _, found in columns)
    return (
        f'<tr><th scope="row">{text(known.name)} <small><code>{text(name)}</code> {_ARROWS[known.better]}</small></th>'
        f"{cells}<td><small>{text(_made_by(name, sums))}</small></td></tr>"
    )


def value(name: str, found: float) -> str:
    return f"{100 * found:.1f} %" if is_share(name) else number(found)


def interval(name: str, found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "one image only"
    return f"{value(name, found.low)} to {value(name, found.high)}"


def _cell(name: str, found: Estimate | None) -> str:
    if found is None:
        return "<td>–</td>"
    return f"<td><b>{value(name, found.mean)}</b> <small>{interval(name, found)} · {found.count:,}</small></td>"


def _made_by(name: str, sums: Sums) -> str:
    return sums.made_by.get("clip_target" if name == CLIP_ACCURACY else name, "")
