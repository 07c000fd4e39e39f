"""The report of a run: one HTML file that holds everything it shows."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.page import Card, Figures, page
from p2pz_ray.evaluation.picture import picture
from p2pz_ray.evaluation.run import Run
from p2pz_ray.evaluation.tally import Place, Tally, busy_seconds, evenly
from p2pz_ray.evaluation.truth import PairError, Truth, TruthSummary

PAGE = "report/index.html"
SHEET_BYTES = 11 * 2**20
"""What the contact sheet may take, so that the page with all its text stays below 15 MB."""


def write_report(
    run_uri: str,
    *,
    storage_options: dict[str, Any] | None = None,
    truth_uri: str | None = None,
    pictures: int = 60,
) -> str:
    """Write RUN/report/index.html, for a finished run or for what is done of one, and return its URI.

    truth_uri: the miniature collection the run was made of, if its truth is to be compared and shown.
    pictures: how many pairs are shown, evenly chosen; all pairs are counted.
    storage_options: handed to fsspec, for both URIs.

    Raises `ConfigError` if there is no run or no truth at the URIs, `P2PZError` if a file can't be read or written.
    """
    run = Run(run_uri, storage_options)
    tally = Tally(run)
    truth = _truth(run, truth_uri, storage_options)
    errors = _errors(run, truth) if truth else {}
    if truth and tally.statuses["ok"] and not errors:
        raise ConfigError(f"{truth_uri} has the truth of no pair in {run_uri}: give the collection it was made of.")
    cards = _affordable(list(_cards(run, tally.sample(pictures), truth)))
    html = page(
        title=_title(run.config) or ", ".join(sorted(tally.edits)) or "A run of pairs",
        subtitle=_subtitle(run),
        figures=_figures(run, tally),
        truth={edit: TruthSummary.of(found) for edit, found in errors.items()},
        cards=cards,
        pictured=sum(tally.edits.values()),
        problems=tally.problems,
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        footer=f"{run.uri} · written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by p2pz_ray",
    )
    run.store.write(PAGE, html.encode())
    return run.store.name(PAGE)


def _truth(run: Run, uri: str | None, storage_options: dict[str, Any] | None) -> Truth | None:
    if uri is None:
        return None
    words = {name: edit.get("target") for name, edit in _edits(run.config).items()}
    targets = {name: word for name, word in words.items() if word}
    return Truth(uri, storage_options, targets=targets, fit=_section(run.config, "image").get("fit", "crop"))


def _errors(run: Run, truth: Truth) -> dict[str, list[PairError]]:
    """The errors of all ok pairs that have a truth, by edit."""
    errors: defaultdict[str, list[PairError]] = defaultdict(list)
    for manifest in run.manifests:
        for batch in run.batches(manifest, ["id", "edit", "status", "source_image", "edited_image"]):
            for row in batch.to_pylist():
                if row["status"] == "ok":
                    found = truth.error(
                        row["id"], row["edit"], _bytes(row["source_image"]), _bytes(row["edited_image"])
                    )
                    if found:
                        errors[row["edit"]].append(found)
    return dict(sorted(errors.items()))


def _cards(run: Run, places: Sequence[Place], truth: Truth | None) -> Iterator[Card]:
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for place in places:
        wanted[place.partition].add(place.row)
    columns = ["id", "edit", "status", "caption", "seed", "source_image", "edited_image"]
    for index, rows in sorted(wanted.items()):
        first = 0
        for batch in run.batches(run.manifests[index], columns):
            for i in range(batch.num_rows):
                if first + i in rows:
                    yield _card(batch.slice(i, 1).to_pylist()[0], truth)
            first += batch.num_rows


def _card(row: dict[str, Any], truth: Truth | None) -> Card:
    source, edited = _bytes(row["source_image"]), _bytes(row["edited_image"])
    pictures = {"source": picture(source), "edited": picture(edited)}
    error = None
    if truth and source and edited and row["edit"] in truth.edits:
        pictures["truth"] = picture(truth.picture(row["id"], row["edit"]))
        error = truth.error(row["id"], row["edit"], source, edited)
    return Card(row["id"], row["edit"], row["status"], row["caption"] or "", row["seed"], pictures, error)


def _affordable(cards: list[Card]) -> list[Card]:
    """The cards, or evenly fewer of them, so that their pictures fit the page."""
    kept = cards
    while sum(card.size for card in kept) > SHEET_BYTES:
        kept = [cards[i] for i in evenly(len(cards), len(kept) * 9 // 10)]
    return kept


def _figures(run: Run, tally: Tally) -> Figures:
    seconds = busy_seconds(run.manifests)
    images = sum(manifest.images for manifest in run.manifests)
    return Figures(
        images=(images, run.plan.images),
        partitions=(len(run.manifests), len(run.plan.partitions)),
        complete=run.complete,
        edits=len(_edits(run.config)) or max(1, len(tally.edits)),
        pairs=tally.statuses.total(),
        ok=tally.statuses["ok"],
        failed=tally.statuses["error"],
        flagged=tally.statuses["flagged"],
        rate=images / seconds if seconds else None,
    )


def _title(config: dict[str, Any]) -> str:
    """What was translated into what: the edits' words, or the name of one that has none."""
    edits = _edits(config)
    names = [
        f"{edit['source']} → {edit['target']}" if edit.get("source") and edit.get("target") else name
        for name, edit in edits.items()
    ]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _subtitle(run: Run) -> str:
    source, model = _section(run.config, "input").get("uri"), run.config.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    images = "1 image" if run.plan.images == 1 else f"{run.plan.images:,} images"
    parts = [
        images + (f" from {source}" if source else ""),
        f"translated by {name}" if name else "",
    ]
    return ", ".join(part for part in parts if part)


def _edits(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: edit for name, edit in _section(config, "edits").items() if isinstance(edit, dict)}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _bytes(image: dict[str, Any] | None) -> bytes:
    return (image or {}).get("bytes") or b""
