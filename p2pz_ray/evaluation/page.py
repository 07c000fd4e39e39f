"""The report's page: from what was found to HTML. Whatever came from outside passes `text` on its way in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from p2pz_ray.evaluation.picture import Picture
from p2pz_ray.evaluation.tally import Problem
from p2pz_ray.evaluation.truth import PairError, TruthSummary, psnr

MAX_TEXT = 600
MAX_PROBLEMS = 50


@dataclass(frozen=True)
class Card:
    """One pair of the contact sheet: what is shown (name → picture, None where there is none) and said of it."""

    id: str
    edit: str
    status: str
    caption: str
    seed: int | None
    pictures: Mapping[str, Picture | None]
    error: PairError | None

    @property
    def size(self) -> int:
        """About how many bytes it takes in the page."""
        return 2_000 + sum(len(picture.uri) for picture in self.pictures.values() if picture)


@dataclass(frozen=True)
class Figures:
    """The numbers at the top. Images and partitions are of how many planned; the rest counts pairs."""

    images: tuple[int, int]
    partitions: tuple[int, int]
    complete: bool
    edits: int
    pairs: int
    ok: int
    failed: int
    flagged: int
    rate: float | None  # images a second


def page(
    *,
    title: str,
    subtitle: str,
    figures: Figures,
    truth: Mapping[str, TruthSummary],
    cards: Sequence[Card],
    pictured: int,
    problems: Sequence[Problem],
    config: str,
    footer: str,
) -> str:
    """The whole page. `pictured` is how many pairs have pictures, of which `cards` are a sample."""
    template = Template(files("p2pz_ray.evaluation").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=text(title),
        subtitle=text(subtitle),
        progress=_progress(figures),
        tiles=_tiles(figures, truth),
        truth=_truth(truth),
        sheet=_sheet(cards, pictured),
        problems=_problems(problems),
        config=_config(config),
        footer=text(footer),
    )


def text(value: str, limit: int = MAX_TEXT) -> str:
    """Any string as harmless HTML text or attribute value: escaped, printable, and not endless."""
    # Ids may carry undecodable bytes as lone surrogates, which UTF-8 can't hold.
    clean = value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return escape(clean if len(clean) <= limit else f"{clean[: limit - 1]}…")


def _progress(figures: Figures) -> str:
    done, planned = figures.partitions
    standing = f"{done:,} of {planned:,} planned partitions"
    if figures.complete and done == planned:
        state, say = "done", f"Finished: {standing} are done."
    elif figures.complete:
        state, say = "open", f"Damaged: the run was finished, but the files of only {standing} are there."
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


def _tiles(figures: Figures, truth: Mapping[str, TruthSummary]) -> str:
    done, planned = figures.images
    of_pairs = f"of {figures.pairs:,} pairs" if figures.edits > 1 else f"of {figures.pairs:,}"
    tiles = [
        ("images", f"{done:,}", "" if done == planned else f"of {planned:,} planned", ""),
        ("ok", f"{figures.ok:,}", of_pairs, "ok"),
        ("failed", f"{figures.failed:,}", _percent(figures.failed, figures.pairs), "failed" if figures.failed else ""),
        (
            "flagged",
            f"{figures.flagged:,}",
            _percent(figures.flagged, figures.pairs),
            "flagged" if figures.flagged else "",
        ),
    ]
    if figures.rate is not None:
        tiles.append(("images a second", f"{figures.rate:.3g}", "all replicas together", ""))
    compared = sum(summary.pairs for summary in truth.values())
    if compared:
        closer = sum(summary.closer for summary in truth.values())
        tiles.append(
            ("closer to the truth than the source", _percent(closer, compared), f"of {compared:,} compared", "")
        )
    return "\n".join(
        f'<div class="tile {kind}"><dt>{name}</dt><dd class="number">{number}</dd><dd>{note}</dd></div>'
        for name, number, note, kind in tiles
    )


def _truth(truth: Mapping[str, TruthSummary]) -> str:
    if not truth:
        return ""
    rows = []
    largest = max(max(summary.edited, summary.copy, summary.edited_background or 0) for summary in truth.values()) or 1
    for edit, summary in truth.items():
        whole = _against(summary.edited, summary.copy, largest)
        background = _against(summary.edited_background, summary.copy_background, largest)
        rows.append(
            f'<tr><th scope="row">{text(edit)} <small>{summary.pairs:,} pairs</small></th>{whole}{background}</tr>'
        )
    return f"""<section aria-labelledby="truth-h">
<h2 id="truth-h">Against the truth</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Errors against the truth">
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
background, where no object is in either, nothing should change.</p>
</section>"""


def _against(edited: float | None, copy: float | None, largest: float) -> str:
    """Two cells, each an error with a bar as long as it is large beside the largest."""
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


def _sheet(cards: Sequence[Card], pictured: int) -> str:
    if not cards:
        why = "No pair has a picture yet." if not pictured else "Pictures were left out of this report."
        return f'<p class="empty">{why}</p>'
    sampled = (
        f"{len(cards):,} of {pictured:,} pairs, evenly chosen" if len(cards) < pictured else f"All {pictured:,} pairs"
    )
    edits = sorted({card.edit for card in cards})
    tools = ""
    if len(edits) > 1:
        options = "".join(f'<option value="{text(edit)}">{text(edit)}</option>' for edit in edits)
        tools += f'<label>Edit <select id="edit"><option value="">all</option>{options}</select></label>'
    if any(card.error for card in cards):
        tools += (
            '<label>Order <select id="order"><option value="">as in the collection</option>'
            '<option value="1">closest to the truth first</option>'
            '<option value="-1">farthest from the truth first</option></select></label>'
        )
    shots = max(len(card.pictures) for card in cards)
    items = "\n".join(_card(card, len(edits) > 1) for card in cards)
    return f"""<div class="over"><p>{sampled}. Choose one to enlarge it.</p><form class="tools">{tools}</form></div>
<ul class="sheet" id="sheet" style="--shots:{shots}">
{items}
</ul>"""


def _card(card: Card, name_edit: bool) -> str:
    shots = "".join(_shot(name, picture) for name, picture in card.pictures.items())
    badge = f'<span class="badge {text(card.status)}">{text(card.status)}</span>' if card.status != "ok" else ""
    edit = f'<span class="edit">{text(card.edit)}</span>' if name_edit else ""
    score = order = ""
    if card.error:
        order = f' data-error="{card.error.edited:.8f}"'
        score = (
            f'<span class="score"><abbr title="PSNR against the truth">{_decibels(card.error.edited)}</abbr>'
            f" <small>source {_decibels(card.error.copy)}</small></span>"
        )
    seed = "" if card.seed is None else f' data-seed="{card.seed}"'
    return (
        f'<li data-edit="{text(card.edit)}"{order}{seed}>'
        f'<button type="button" class="trio" aria-label="Enlarge {text(card.id, 200)}, {text(card.edit)}">'
        f"{shots}</button>"
        f'<p class="caption">{text(card.caption) or "<i>no caption</i>"}</p>'
        f'<p class="meta"><code>{text(card.id, 200)}</code>{edit}{badge}{score}</p></li>'
    )


def _shot(name: str, picture: Picture | None) -> str:
    if picture is None:
        inside = '<span class="none">none</span>'
    else:
        kind = ' class="small"' if picture.small else ""
        inside = (
            f'<img src="{picture.uri}" width="{picture.width}" height="{picture.height}"{kind} alt="{name}"'
            ' decoding="async">'
        )
    return f'<span class="shot">{inside}<span class="name">{name}</span></span>'


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return '<p class="empty">None: every image came out.</p>'
    groups = []
    for number, problem in enumerate(problems[:MAX_PROBLEMS]):
        ids = "".join(f"<li><code>{text(id, 200)}</code></li>" for id in problem.ids)
        rest = problem.images - len(problem.ids)
        more = f"<li>and {rest:,} more</li>" if rest else ""
        kind = "failed" if problem.status == "error" else "flagged"
        groups.append(
            f'<details{" open" if number < 3 else ""}><summary><b class="{kind}">{problem.images:,} {kind}:</b> '
            f'{text(problem.sentence)}</summary><ul class="ids">{ids}{more}</ul></details>'
        )
    if len(problems) > MAX_PROBLEMS:
        groups.append(f'<p class="note">And {len(problems) - MAX_PROBLEMS:,} rarer sentences.</p>')
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
    # Neither a few failures nor a few successes may be rounded away.
    if part and share < 0.1:
        return "< 0.1 %"
    if part < whole and share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %".replace(".0 %", " %")
