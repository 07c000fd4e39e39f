"""The comparison of two runs, pair by pair: `p2pz report A B`."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from p2pz_ray.amount import number
from p2pz_ray.commit.run import Run
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.change import Change, Changes, Spot
from p2pz_ray.evaluation.interval import Estimate
from p2pz_ray.evaluation.matched import Matched
from p2pz_ray.evaluation.summary import ScoreTable
from p2pz_ray.evaluation.sums import is_share
from p2pz_ray.evaluation.tally import edited_pictures, places_of, rows_at
from p2pz_ray.report.cards import Card, affordable, sheet
from p2pz_ray.report.charts import bars
from p2pz_ray.report.markup import html, section, text
from p2pz_ray.report.measure import measure
from p2pz_ray.report.picture import picture
from p2pz_ray.report.score_section import value

Key = tuple[str, str]


def write_comparison(
    uri: str, other_uri: str, *, storage_options: dict[str, Any] | None = None, pictures: int = 60
) -> str:
    """Write A/report/compare-B.html about the pairs (id and edit) that both runs have; returns its URI.

    Raises ConfigError if one is not a run, or they have no pair in common.
    """
    one, two = Run(uri, storage_options), Run(other_uri, storage_options)
    changes = Changes(pictures)
    with TemporaryDirectory() as folder:
        matched = Matched(one, two, Path(folder))
        for table in matched:
            changes.count(table, matched.names)
    if not changes.pairs:
        raise ConfigError(f"{uri} and {other_uri} have no pair in common: compare runs of the same images and edits.")
    cards = affordable(_cards(one, two, changes.chosen(), matched.names))
    counts = "".join(
        f'<div class="tile"><dt>{words}</dt><dd class="number">{count:,}</dd><dd>{text(note)}</dd></div>'
        for words, count, note in (
            ("pairs in both", changes.pairs, "with a picture in each"),
            ("only in A", matched.pictured[0] - changes.pairs, uri),
            ("only in B", matched.pictured[1] - changes.pairs, other_uri),
        )
    )
    page = html(
        title="Two runs, pair by pair",
        subtitle=f"A is {uri}, B is {other_uri}",
        head=f'<dl class="tiles">{counts}</dl>',
        sections=[
            section("scores", "B minus A", _table(matched.names, changes.scores)),
            section("pictures", "Pictures", sheet(cards, changes.pairs)),
        ],
        footer=f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by p2pz_ray",
    )
    file = f"report/compare-{other_uri.rstrip('/').rsplit('/', 1)[-1]}.html"
    one.store.write(file, page.encode())
    return one.store.name(file)


def _cards(one: Run, two: Run, chosen: Sequence[Spot], names: Sequence[str]) -> list[Card]:
    keys = {(spot.id, spot.edit) for spot in chosen}
    partitions, others = {spot.partition for spot in chosen}, {spot.other for spot in chosen}
    other = edited_pictures(two, keys, others)
    before, after = _scores(one, keys, partitions), _scores(two, keys, others)
    columns = ["id", "edit", "status", "caption", "seed", "source_image", "edited_image"]
    cards = []
    for row in rows_at(one, places_of(one, keys, partitions), columns):
        key = (row["id"], row["edit"])
        shown = {
            "source": picture((row["source_image"] or {}).get("bytes")),
            "A": picture((row["edited_image"] or {}).get("bytes")),
            "B": picture(other.get(key)),
        }
        a, b = before.get(key, {}), after.get(key, {})
        scores = {name: b[name] - a[name] for name in names if name in a and name in b}
        cards.append(Card(*key, row["status"], row["caption"] or "", row["seed"], shown, scores))
    return cards


def _scores(run: Run, keys: Collection[Key], partitions: Collection[str]) -> dict[Key, dict[str, float]]:
    return ScoreTable(run, [one for one in run.manifests if one.partition in partitions]).rows(keys)


def _table(names: Sequence[str], changes: Mapping[str, Change]) -> str:
    rows, drawn = "", ""
    for name in names:
        found = changes.get(name)
        if found is None:
            continue
        before, after, by = (moments.estimate(False) for moments in (found.before, found.after, found.change))
        assert before is not None
        assert after is not None
        assert by is not None
        way = measure(name).better
        better = found.less if way == "less" else found.more
        words = text(measure(name).name)
        rows += (
            f'<tr><th scope="row">{words} <small><code>{text(name)}</code></small></th>'
            f"<td>{value(name, before.mean)}</td>"
            f"<td>{value(name, after.mean)}</td>"
            f"<td><b>{_change(name, by.mean)}</b> <small>{_interval(name, by)}</small></td>"
            f"<td>{_share(better.estimate(True)) if way else '–'}</td><td>{by.count:,}</td></tr>"
        )
        if not is_share(name):
            ends = found.lowest[0].rank, found.highest[-1].rank
            chart = bars(*found.histogram.bins(), ends, words)
            drawn += f"<figure><figcaption>{words}, B minus A</figcaption>{chart}</figure>"
    if not rows:
        return '<p class="empty">The runs have no score in common: run p2pz evaluate on each with the same metrics.</p>'
    columns = ("A", "B", "B minus A", "pairs where B is better", "pairs")
    heads = "".join(f'<th scope="col">{head}</th>' for head in columns)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Scores of both"><table class="scores">
<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>
</div><p class="note">Over the pairs that have the score in both runs; intervals hold the true mean with 95 %.</p>
<div class="charts">{drawn}</div>"""


def _share(found: Estimate | None) -> str:
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
