"""The report of a run: one self-contained HTML file."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import yaml

from p2pz_ray.commit.run import Run
from p2pz_ray.config.edits import base_name
from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.evaluation.metrics.pixels import NO_DIFFERENCE
from p2pz_ray.evaluation.metrics.truth import PairError, Truth, TruthSums, psnr
from p2pz_ray.evaluation.summary import ScoreTable, sums_of
from p2pz_ray.evaluation.tally import Place, Tally, busy_seconds, edited_pictures, places_of, rows_at
from p2pz_ray.report.cards import Card, affordable
from p2pz_ray.report.charts import throughput
from p2pz_ray.report.page import Figures, page
from p2pz_ray.report.picture import picture

PAGE = "report/index.html"


def write_report(
    run_uri: str,
    *,
    storage_options: dict[str, Any] | None = None,
    truth_uri: str | None = None,
    student_uri: str | None = None,
    pictures: int = 60,
) -> str:
    """Write RUN/report/index.html, for a finished or unfinished run, and return its URI.

    truth_uri: the miniature collection that the run was made from, to compare with its truth.
    student_uri: a student's run, whose edits of the same ids and whose scores are shown beside.
    pictures: how many pairs to show, evenly chosen; the best and worst of each score are added. All pairs are counted.
    storage_options: given to fsspec for all URIs.

    Raises `ConfigError` if there is no run or no truth at a URI, `P2PZError` if a file can't be read or written.
    """
    run = Run(run_uri, storage_options)
    tally, scores = Tally(run), sums_of(run)
    truth = _truth(run, truth_uri, storage_options)
    errors = _errors(run, truth) if truth else {}
    if truth and tally.statuses["ok"] and not errors:
        raise ConfigError(f"{truth_uri} has the truth of no pair in {run_uri}: give the collection it was made of.")
    sweeps = _sweeps(run.config)
    places = tally.sample(pictures, without=[weaker for others in sweeps.values() for weaker in others])
    if pictures and len(places) < sum(tally.edits.values()):
        extremes = scores.extremes()
        partitions = {pair.partition for pair in extremes}
        places = sorted({*places, *places_of(run, {(pair.id, pair.edit) for pair in extremes}, partitions)})
    student = Run(student_uri, storage_options) if student_uri else None
    scored = ScoreTable(run, [run.manifests[index] for index in sorted({place.partition for place in places})])
    cards = affordable(_with_scores(list(_cards(run, places, sweeps, truth, student)), scored))
    page_html = page(
        title=_title(run.config) or ", ".join(sorted(tally.edits)) or "A run of pairs",
        subtitle=_subtitle(run),
        figures=_figures(run, tally),
        truth=errors,
        scores=scores,
        student=sums_of(student) if student else None,
        cards=cards,
        pictured=sum(tally.edits.values()),
        problems=tally.problems,
        throughput=throughput(run.manifests),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        footer=f"{run.uri} · written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by p2pz_ray",
    )
    run.store.write(PAGE, page_html.encode())
    return run.store.name(PAGE)


def _truth(run: Run, uri: str | None, storage_options: dict[str, Any] | None) -> Truth | None:
    if uri is None:
        return None
    words = {name: edit.get("target") for name, edit in _edits(run.config).items()}
    targets = {name: word for name, word in words.items() if word}
    return Truth(uri, storage_options, targets=targets, fit=_section(run.config, "image").get("fit", "crop"))


def _errors(run: Run, truth: Truth) -> dict[str, TruthSums]:
    """The errors of all ok pairs that have a truth, by edit."""
    errors: defaultdict[str, TruthSums] = defaultdict(TruthSums)
    for manifest in run.manifests:
        for batch in run.batches(manifest, ["id", "edit", "status", "source_image", "edited_image"]):
            for row in batch.to_pylist():
                if row["status"] == "ok":
                    found = _error(truth, row)
                    if found:
                        errors[row["edit"]].add(found)
    return dict(sorted(errors.items()))


def _cards(
    run: Run, places: Sequence[Place], sweeps: Mapping[str, Mapping[str, str]], truth: Truth | None, student: Run | None
) -> Iterator[Card]:
    """A card per pair. An edit made at several strengths has one card, which shows all of them."""
    columns = ["id", "edit", "status", "caption", "seed", "source_image", "edited_image", "mask"]
    conditions = [f"condition_{i}" for i, _ in enumerate(run.config.get("conditions") or [], start=1)]
    rows = list(rows_at(run, places, columns + conditions))
    shown = {(row["id"], other) for row in rows for other in sweeps.get(row["edit"], ())}
    weaker = edited_pictures(run, shown, {run.manifests[place.partition].partition for place in places})
    learned = edited_pictures(student, {(row["id"], row["edit"]) for row in rows}) if student else None
    for row in rows:
        source, edited = _bytes(row["source_image"]), _bytes(row["edited_image"])
        pictures = {"source": picture(source)}
        for other, said in sweeps.get(row["edit"], {}).items():
            pictures[said] = picture(weaker.get((row["id"], other)))
        pictures["edited"] = picture(edited)
        if row.get("mask"):
            pictures["mask"] = picture(_bytes(row["mask"]))
        for name in conditions:
            if row.get(name):
                pictures[name.replace("_", " ")] = picture(_bytes(row[name]))
        scores: dict[str, float] = {}
        if truth and source and edited and row["edit"] in truth.edits:
            pictures["truth"] = picture(truth.picture(row["id"], row["edit"]))
            if error := _error(truth, row):
                scores = {"truth_mse": error.edited, "truth_psnr": min(psnr(error.edited), NO_DIFFERENCE)}
        if learned is not None:
            pictures["student"] = picture(learned.get((row["id"], row["edit"])))
        yield Card(row["id"], row["edit"], row["status"], row["caption"] or "", row["seed"], pictures, scores)


def _with_scores(cards: list[Card], table: ScoreTable) -> list[Card]:
    rows = table.rows({(card.id, card.edit) for card in cards})
    return [replace(card, scores={**card.scores, **rows.get((card.id, card.edit), {})}) for card in cards]


def _error(truth: Truth, row: dict[str, Any]) -> PairError | None:
    """A pair's error against the truth; None if there is no truth, or a picture can't be read."""
    try:
        return truth.error(row["id"], row["edit"], _bytes(row["source_image"]), _bytes(row["edited_image"]))
    except ImageError:
        return None


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
    """The edits' words ("cat to dog"), or the name of an edit that has none."""
    edits = _edits(config)
    named = (
        f"{edit['source']} → {edit['target']}" if edit.get("source") and edit.get("target") else name
        for name, edit in edits.items()
    )
    names = list(dict.fromkeys(named))  # several strengths have the same words
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _subtitle(run: Run) -> str:
    source, model = _section(run.config, "input").get("uri"), run.config.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if student := run.config.get("student"):
        name = f"the student {student}"
    images = "1 image" if run.plan.images == 1 else f"{run.plan.images:,} images"
    parts = [
        images + (f" from {source}" if source else ""),
        f"translated by {name}" if name else "",
    ]
    return ", ".join(part for part in parts if part)


def _edits(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: edit for name, edit in _section(config, "edits").items() if isinstance(edit, dict)}


def _sweeps(config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Edits made at several strengths: the name of the strongest → the names and labels of the weaker ones, the weakest
    first."""
    found: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, edit in _edits(config).items():
        strength = edit.get("strength")
        if isinstance(strength, int | float) and (base := base_name(name, strength)) != name:
            found[base].append((strength, name))
    strengths = [sorted(each) for each in found.values() if len(each) > 1]
    # A no-break space before the percent sign.
    return {each[-1][1]: {name: f"{100 * strength:.0f}\u00a0%" for strength, name in each[:-1]} for each in strengths}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _bytes(image: dict[str, Any] | None) -> bytes:
    return (image or {}).get("bytes") or b""
