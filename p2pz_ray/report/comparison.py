"""The comparison of two runs, pair by pair: `p2pz report A B`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.amount import number
from p2pz_ray.commit.run import Run
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.interval import Estimate, mean, share_of
from p2pz_ray.evaluation.summary import ScoreTable
from p2pz_ray.evaluation.sums import is_share
from p2pz_ray.evaluation.tally import edited_pictures, evenly, places_of, rows_at
from p2pz_ray.report.cards import Card, affordable, sheet
from p2pz_ray.report.charts import histogram
from p2pz_ray.report.markup import html, section, text
from p2pz_ray.report.measure import measure
from p2pz_ray.report.picture import picture
from p2pz_ray.report.score_section import value

_EXTREMES = 3
Key = tuple[str, str]


def write_comparison(
    uri: str, other_uri: str, *, storage_options: dict[str, Any] | None = None, pictures: int = 60
) -> str:
    """Write A/report/compare-B.html about the pairs (id and edit) that both runs have; returns its URI.

    Raises ConfigError if one is not a run, or they have no pair in common.
    """
    one, two = Run(uri, storage_options), Run(other_uri, storage_options)
    keys = _shared(one, two)
    if not keys:
        raise ConfigError(f"{uri} and {other_uri} have no pair in common: compare runs of the same images and edits.")
    names, differences = _differences(ScoreTable(one), ScoreTable(two))
    chosen = {keys[i] for i in evenly(len(keys), pictures)} | _extreme(differences, set(keys))
    cards = affordable(_cards(one, two, [key for key in keys if key in chosen], differences))
    counts = "".join(
        f'<div class="tile"><dt>{words}</dt><dd class="number">{count:,}</dd><dd>{text(note)}</dd></div>'
        for words, count, note in (
            ("pairs in both", len(keys), "with a picture in each"),
            ("only in A", _pictured(one) - len(keys), uri),
            ("only in B", _pictured(two) - len(keys), other_uri),
        )
    )
    page = html(
        title="Two runs, pair by pair",
        subtitle=f"A is {uri}, B is {other_uri}",
        head=f'<dl class="tiles">{counts}</dl>',
        sections=[
            section("scores", "B minus A", _table(names, differences)),
            section("pictures", "Pictures", sheet(cards, len(keys))),
        ],
        footer=f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by p2pz_ray",
    )
    file = f"report/compare-{other_uri.rstrip('/').rsplit('/', 1)[-1]}.html"
    one.store.write(file, page.encode())
    return one.store.name(file)


def _keys(run: Run) -> list[Key]:
    """Id and edit of the pairs that have a picture, in order."""
    found = []
    for manifest in run.manifests:
        for batch in run.batches(manifest, ["id", "edit", "status"]):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            found += [(id, edit) for id, edit, status in rows if status != "error"]
    return found


def _shared(one: Run, two: Run) -> list[Key]:
    others = set(_keys(two))
    return [key for key in _keys(one) if key in others]


def _pictured(run: Run) -> int:
    return len(_keys(run))


def _differences(a: ScoreTable, b: ScoreTable) -> tuple[list[str], dict[Key, dict[str, tuple[float, float]]]]:
    """The scores that both have, computed by the same model, and both values for each pair."""
    names = [name for name in a.values if a.made_by[name] == b.made_by.get(name)]
    there = a.rows(set(zip(b.ids, b.edits, strict=True)))
    others = b.rows(there)
    return names, {
        key: {name: (found[name], others[key][name]) for name in names if name in found and name in others[key]}
        for key, found in there.items()
    }


def _extreme(differences: dict[Key, dict[str, tuple[float, float]]], keys: set[Key]) -> set[Key]:
    """For each score, the pairs that differ most in either direction."""
    names = {name for values in differences.values() for name in values}
    chosen: set[Key] = set()
    for name in names:
        ranked = sorted((v[name][1] - v[name][0], key) for key, v in differences.items() if name in v and key in keys)
        chosen |= {key for _, key in (*ranked[:_EXTREMES], *ranked[-_EXTREMES:])}
    return chosen


def _cards(one: Run, two: Run, keys: Sequence[Key], differences: dict[Key, Any]) -> list[Card]:
    other = edited_pictures(two, set(keys))
    columns = ["id", "edit", "status", "caption", "seed", "source_image", "edited_image"]
    cards = []
    for row in rows_at(one, places_of(one, set(keys)), columns):
        key = (row["id"], row["edit"])
        shown = {
            "source": picture((row["source_image"] or {}).get("bytes")),
            "A": picture((row["edited_image"] or {}).get("bytes")),
            "B": picture(other.get(key)),
        }
        scores = {name: b - a for name, (a, b) in differences.get(key, {}).items()}
        cards.append(Card(*key, row["status"], row["caption"] or "", row["seed"], shown, scores))
    return cards


def _table(names: Sequence[str], differences: dict[Key, dict[str, tuple[float, float]]]) -> str:
    rows, drawn = "", ""
    for name in names:
        both = np.array([values[name] for values in differences.values() if name in values], np.float64).reshape(-1, 2)
        change: NDArray[np.float64] = both[:, 1] - both[:, 0]
        ids = [id for (id, _), values in differences.items() if name in values]
        images = np.unique(ids, return_inverse=True)[1] if ids else None
        found = mean(change, images)
        if found is None:
            continue
        way = measure(name).better
        better = (change < 0) if way == "less" else (change > 0)
        words = text(measure(name).name)
        rows += (
            f'<tr><th scope="row">{words} <small><code>{text(name)}</code></small></th>'
            f"<td>{value(name, both[:, 0].mean())}</td>"
            f"<td>{value(name, both[:, 1].mean())}</td>"
            f"<td><b>{_change(name, found.mean)}</b> <small>{_interval(name, found)}</small></td>"
            f"<td>{_share(better, images) if way else '–'}</td><td>{len(change):,}</td></tr>"
        )
        if not is_share(name):
            drawn += f"<figure><figcaption>{words}, B minus A</figcaption>{histogram(change, words)}</figure>"
    if not rows:
        return '<p class="empty">The runs have no score in common: run p2pz evaluate on each with the same metrics.</p>'
    columns = ("A", "B", "B minus A", "pairs where B is better", "pairs")
    heads = "".join(f'<th scope="col">{head}</th>' for head in columns)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Scores of both"><table class="scores">
<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>
</div><p class="note">Over the pairs that have the score in both runs; intervals hold the true mean with 95 %.</p>
<div class="charts">{drawn}</div>"""


def _share(hits: NDArray[np.bool_], images: NDArray[np.intp] | None) -> str:
    found = share_of(hits, images)
    if found is None or found.low is None or found.high is None:
        return "–"
    return f"{100 * found.mean:.1f} % <small>{100 * found.low:.1f} to {100 * found.high:.1f} %</small>"


def _interval(name: str, found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "one pair"
    return f"{_change(name, found.low)} to {_change(name, found.high)}"


def _change(name: str, by: float) -> str:
    """A difference as text; shares are in percentage points."""
    return f"{100 * by:+.1f} points" if is_share(name) else number(by)
