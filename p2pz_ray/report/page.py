"""The report's page as HTML. All text from outside goes through `text`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2pz_ray.amount import number
from p2pz_ray.evaluation.metrics.truth import TruthSums, psnr
from p2pz_ray.evaluation.sums import Sums
from p2pz_ray.evaluation.tally import Problem
from p2pz_ray.report.cards import Card, sheet
from p2pz_ray.report.markup import html, section, text
from p2pz_ray.report.score_section import headlines, scores_body

MAX_PROBLEMS = 50


@dataclass(frozen=True)
class Figures:
    """The numbers at the top. Images and partitions come with how many were planned; the rest counts pairs."""

    images: tuple[int, int]
    partitions: tuple[int, int]
    complete: bool
    edits: int
    pairs: int
    ok: int
    failed: int
    flagged: int
    rate: float | None  # images per second


def page(
    *,
    title: str,
    subtitle: str,
    figures: Figures,
    truth: Mapping[str, TruthSums],
    scores: Sums,
    student: Sums | None,
    cards: Sequence[Card],
    pictured: int,
    problems: Sequence[Problem],
    throughput: str,
    config: str,
    footer: str,
) -> str:
    """The whole page. student: the scores of a student's run on the same pairs. pictured: how many pairs have pictures;
    `cards` are a sample of them. throughput: a chart as HTML."""
    head = "\n".join([_progress(figures), _tiles(_counts(figures) + _quality(truth, scores))])
    sections = [
        section("pictures", "Pictures", sheet(cards, pictured)),
        section("scores", "Scores", scores_body(scores, student)),
        section("truth", "Against the truth", _truth(truth)),
        section("problems", "Failed and flagged images", _problems(problems)),
        section("time", "Throughput over time", throughput),
        section("config", "Configuration", _config(config)),
    ]
    return html(title=title, subtitle=subtitle, head=head, sections=sections, footer=footer)


def _progress(figures: Figures) -> str:
    done, planned = figures.partitions
    standing = f"{done:,} of {planned:,} planned partitions"
    if figures.complete and done == planned:
        state, say = "done", f"Finished: {standing} are done."
    elif figures.complete:
        state, say = "open", f"Damaged: the run was finished, but only the files of {standing} are there."
    elif done < planned:
        state, say = "open", f"Not finished: {standing} are done; the figures cover those."
    else:
        state, say = "open", f"Nearly finished: {standing} are done, but the run isn't marked as finished."
    total = max(1, figures.images[1] * figures.edits)
    shares = [
        (kind, 100 * count / total)
        for kind, count in (("ok", figures.ok), ("flagged", figures.flagged), ("failed", figures.failed))
        if count
    ]
    bar = "".join(f'<span class="{kind}" style="width:{share:.3f}%"></span>' for kind, share in shares)
    return f'<p class="state {state}">{say}</p>\n<div class="bar" aria-hidden="true">{bar}</div>'


Tile = tuple[str, str, str, str]  # name, number, note, and a kind that sets its colour


def _counts(figures: Figures) -> list[Tile]:
    done, planned = figures.images
    of_pairs = f"of {figures.pairs:,} pairs" if figures.edits > 1 else f"of {figures.pairs:,}"
    whole = figures.pairs and figures.ok == figures.pairs
    note = "all ok" if whole else ""
    tiles = [("images", f"{done:,}", note if done == planned else f"of {planned:,} planned", "")]
    if not whole:
        tiles.append(("ok", f"{figures.ok:,}", of_pairs, "ok"))
    for kind, count in (("failed", figures.failed), ("flagged", figures.flagged)):
        if count:
            tiles.append((kind, f"{count:,}", _percent(count, figures.pairs), kind))
    if figures.rate is not None:
        tiles.append(("images per second", number(figures.rate), "all replicas together", ""))
    return tiles


def _quality(truth: Mapping[str, TruthSums], scores: Sums) -> list[Tile]:
    compared = sum(sums.pairs for sums in truth.values())
    closer = sum(sums.closer for sums in truth.values())
    note = f"of {compared:,} compared"
    beside = [("closer to the truth than the source", _percent(closer, compared), note, "")] if compared else []
    return headlines(scores.estimates()) or beside


def _tiles(tiles: Sequence[Tile]) -> str:
    inside = "\n".join(
        f'<div class="tile {kind}"><dt>{name}</dt><dd class="number">{shown}</dd><dd>{note}</dd></div>'
        for name, shown, note, kind in tiles
    )
    return f'<dl class="tiles">\n{inside}\n</dl>' if inside else ""


def _truth(truth: Mapping[str, TruthSums]) -> str:
    if not truth:
        return ""
    rows = []
    means = {edit: sums.mean for edit, sums in truth.items()}
    largest = max(max(mean.edited, mean.copy, mean.edited_background or 0) for mean in means.values()) or 1
    for edit, mean in means.items():
        whole = _against(mean.edited, mean.copy, largest)
        background = _against(mean.edited_background, mean.copy_background, largest)
        pairs = f"{truth[edit].pairs:,} pairs"
        rows.append(f'<tr><th scope="row">{text(edit)} <small>{pairs}</small></th>{whole}{background}</tr>')
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Errors against the truth">
<table>
<thead>
<tr><td></td><th colspan="2" scope="colgroup">whole picture</th><th colspan="2" scope="colgroup">background</th></tr>
<tr><td></td><th scope="col">edited</th><th scope="col">source as it is</th>
<th scope="col">edited</th><th scope="col">source as it is</th></tr>
</thead>
<tbody>
{"".join(rows)}
</tbody>
</table>
</div>
<p class="note">The truth is the same scene drawn with the other animal. Mean squared error of pixel values from 0 to 1
(smaller is closer) and its PSNR in dB (larger is closer). Over the whole picture a good edit beats its source; in the
background, where neither picture has its object, nothing should change.</p>"""


def _against(edited: float | None, copy: float | None, largest: float) -> str:
    """Two cells, each an error with a bar in proportion to the largest error."""
    cells = []
    for kind, error in (("edited", edited), ("copy", copy)):
        if error is None:
            cells.append("<td>–</td>")
            continue
        bar = f'<span class="error" aria-hidden="true"><span style="width:{100 * error / largest:.2f}%"></span></span>'
        cells.append(f'<td class="{kind}"><b>{error:.4f}</b> <small>{_decibels(error)}</small>{bar}</td>')
    return "".join(cells)


def _decibels(error: float) -> str:
    return "exact" if math.isinf(psnr(error)) else f"{psnr(error):.1f} dB"


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    groups = []
    for place, problem in enumerate(problems[:MAX_PROBLEMS]):
        ids = "".join(f"<li><code>{text(id, 200)}</code></li>" for id in problem.ids)
        rest = problem.images - len(problem.ids)
        more = f"<li>and {rest:,} more</li>" if rest else ""
        kind = "failed" if problem.status == "error" else "flagged"
        groups.append(
            f'<details{" open" if place < 3 else ""}><summary><b class="{kind}">{problem.images:,} {kind}:</b> '
            f'{text(problem.sentence)}</summary><ul class="ids" tabindex="0">{ids}{more}</ul></details>'
        )
    if len(problems) > MAX_PROBLEMS:
        groups.append(f'<p class="note">And {len(problems) - MAX_PROBLEMS:,} rarer reasons.</p>')
    return "\n".join(groups)


def _config(config: str) -> str:
    if not config:
        return '<p class="empty">The run keeps no config.yaml.</p>'
    return (
        "<details><summary>config.yaml, as the run recorded it</summary>"
        f'<pre tabindex="0" role="region" aria-label="Configuration">{text(config, 100_000)}</pre></details>'
    )


def _percent(part: int, whole: int) -> str:
    if not whole:
        return ""
    share = 100 * part / whole
    # A few failures must not show as 0 %, nor a few successes as 100 %.
    if part and share < 0.1:
        return "< 0.1 %"
    if part < whole and share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %".replace(".0 %", " %")
