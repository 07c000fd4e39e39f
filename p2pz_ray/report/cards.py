"""The contact sheet: a card per pair, which can be sorted and filtered by any score."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2pz_ray.amount import number
from p2pz_ray.evaluation.tally import evenly
from p2pz_ray.report.markup import text
from p2pz_ray.report.measure import measure, told_apart
from p2pz_ray.report.picture import Picture

SHOWN = ("clip_gain", "truth_psnr", "structure_distance", "background_lpips", "background_stlpips", "psnr")
"""A card shows the first of these scores that it has."""

SHEET_BYTES = 11 * 2**20
"""Limit of the contact sheet, in bytes, so that the whole page stays below 15 MB."""


@dataclass(frozen=True)
class Card:
    """One pair of the contact sheet: its pictures (by name; None if there is none), caption and scores."""

    id: str
    edit: str
    status: str
    caption: str
    seed: int | None
    pictures: Mapping[str, Picture | None]
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Its approximate size in the page, in bytes."""
        return 2_000 + sum(len(picture.uri) for picture in self.pictures.values() if picture)


def affordable(cards: list[Card]) -> list[Card]:
    """All cards, or an even selection whose pictures fit the page."""
    kept = cards
    while sum(card.size for card in kept) > SHEET_BYTES:
        kept = [cards[i] for i in evenly(len(cards), len(kept) * 9 // 10)]
    return kept


def sheet(cards: Sequence[Card], pictured: int) -> str:
    """The contact sheet as HTML, with controls to sort and filter. pictured: how many pairs have a picture in all."""
    if not cards:
        why = "No pair has a picture yet." if not pictured else "Pictures were left out of this report."
        return f'<p class="empty">{why}</p>'
    sampled = (
        f"{len(cards):,} of {pictured:,} pairs, evenly chosen, with the best and worst of each score"
        if len(cards) < pictured
        else f"All {pictured:,} pairs"
    )
    edits = sorted({card.edit for card in cards})
    scores = list(dict.fromkeys(name for card in cards for name in card.scores))
    tools = ""
    if len(edits) > 1:
        options = "".join(f'<option value="{text(edit)}">{text(edit)}</option>' for edit in edits)
        tools += f'<label>Edit <select id="edit"><option value="">all</option>{options}</select></label>'
    if scores:
        tools += _score_tools(scores)
    shots = max(len(card.pictures) for card in cards)
    usual = "A B" if "A" in cards[0].pictures else "source edited"
    names = text(json.dumps({name: measure(name).name for name in scores}), 100_000)
    items = "\n".join(_card(card, len(edits) > 1) for card in cards)
    return f"""<div class="over"><p>{sampled}. Choose one to enlarge it. <span id="shown" role="status"></span></p>
<form class="tools">{tools}</form></div>
<ul class="sheet" id="sheet" style="--shots:{shots}" data-usual="{usual}" data-measures="{names}">
{items}
</ul>"""


def _score_tools(scores: Sequence[str]) -> str:
    ranked = [name for names in told_apart(scores).values() for name in names]
    orders = "".join(
        f'<option value="{sign}:{text(name)}">{text(measure(name).name)}, {first} first</option>'
        for name in ranked
        for sign, first in _orders(name)
    )
    names = "".join(f'<option value="{text(name)}">{text(measure(name).name)}</option>' for name in ranked)
    return (
        f'<label>Order <select id="order"><option value="">as in the collection</option>{orders}</select></label>'
        f'<label>Keep <select id="filter"><option value="">all</option>{names}</select></label>'
        '<label>from <input id="low" type="number" step="any" inputmode="decimal"></label>'
        '<label>to <input id="high" type="number" step="any" inputmode="decimal"></label>'
    )


def _orders(score: str) -> list[tuple[int, str]]:
    """The ways to sort by a score, each with its name; 1 is lowest first, -1 highest first."""
    better = measure(score).better
    if better is None:
        return [(-1, "highest"), (1, "lowest")]
    best = -1 if better == "more" else 1
    return [(best, "best"), (-best, "worst")]


def _card(card: Card, name_edit: bool) -> str:
    shots = " ".join(_shot(name, picture) for name, picture in card.pictures.items())
    # The spoken name begins with the visible text, so that voice control can use it.
    shown = " ".join(f"{'' if one else 'none '}{text(name)}" for name, one in card.pictures.items())
    badge = f'<span class="badge {text(card.status)}">{text(card.status)}</span>' if card.status != "ok" else ""
    edit = f'<span class="edit">{text(card.edit)}</span>' if name_edit else ""
    first = next((name for name in SHOWN if name in card.scores), None)
    score = f'<span class="score">{text(measure(first).name)} {number(card.scores[first])}</span>' if first else ""
    rounded = {name: float(f"{value:.5g}") for name, value in card.scores.items()}
    scores = f' data-scores="{text(json.dumps(rounded, separators=(",", ":")), 4000)}"' if rounded else ""
    seed = "" if card.seed is None else f' data-seed="{card.seed}"'
    return (
        f'<li data-edit="{text(card.edit)}"{scores}{seed}>'
        f'<button type="button" class="trio" aria-label="{shown}: {text(card.id, 200)}, {text(card.edit)}">'
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
            f'<img src="{picture.uri}" width="{picture.width}" height="{picture.height}"{kind} alt="{text(name)}"'
            ' decoding="async">'
        )
    return f'<span class="shot">{inside}<span class="name">{text(name)}</span></span>'
