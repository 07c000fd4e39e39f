"""`p2pz export`: a run's pairs, selected by their scores, in another project's form."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from p2pz_ray.commit.run import Run
from p2pz_ray.config.distill import PairsConfig
from p2pz_ray.distill.pairs import PairSource
from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.export.card import card
from p2pz_ray.export.forms import Format, writer
from p2pz_ray.export.hub import name_of
from p2pz_ray.export.hub import push as send
from p2pz_ray.export.instruction import DESCRIPTION, INSTRUCTION, Instructions
from p2pz_ray.export.pair import ExportPair, side_of
from p2pz_ray.picture.alike import Alike
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.storage.store import Store

_OWN = ("id", "edit", "status", "caption")


@dataclass(frozen=True)
class Exported:
    """The pairs written per side. left_out: condition that failed → pairs left out. pushed: the commit's address."""

    out: str
    train: int
    test: int
    left_out: dict[str, int]
    pushed: str | None = None

    def __str__(self) -> str:
        lines = [f"Wrote {self.train:,} pairs to train on and {self.test:,} to test with: {self.out}"]
        lines += [f"  left out, {count:,}: not {reason}" for reason, count in self.left_out.items() if count]
        return "\n".join([*lines, *([f"Pushed: {self.pushed}"] if self.pushed else [])])


def export(
    run_uri: str,
    out: str,
    format: Format,
    *,
    filter: str | None = None,
    edit: str | None = None,
    instruction: Sequence[str] | None = None,
    duplicates: float = 1.0,
    test: float = 0.1,
    seed: int = 0,
    push: str | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Exported:
    """Write the committed pairs of a run into the folder `out`, which must hold no export yet.

    filter: a condition over the scores. edit: the only one to write; None is all. instruction: templates of a pair's
    prompt. duplicates: sources closer than this count as one (see `Alike`); 0 keeps all. test: share of the source
    pictures in the test side. push: a data set of the hub that the folder is sent to, as one commit.

    Raises ConfigError, before anything is written, for an argument that is wrong.
    """
    run = Run(run_uri, storage_options)
    edits = {name: words for name, words in (run.config.get("edits") or {}).items() if edit in (None, name)}
    if not edits:
        raise ConfigError(f"{run_uri} has no edit {edit}: it has {', '.join(run.config.get('edits') or {})}.")
    if not 0 <= test < 1:
        raise ConfigError(f"--test is {test}: give a share of the source pictures from 0 to below 1.")
    default = INSTRUCTION if format != "img2img-turbo" else DESCRIPTION
    instructions = Instructions(edits, instruction or [default], seed)
    store = Store(out, storage_options)
    if store.exists("README.md"):
        raise ConfigError(f"{out} already holds an export or something else: choose another folder.")
    if push is not None:
        name_of(push)
        if not store.local:
            raise ConfigError(f"--push sends a local folder, but {out} is not local: export into a local folder.")
    left_out: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    output = writer(format, store)
    for pair in _selected(run_uri, list(edits), instructions, filter, duplicates, left_out, storage_options):
        side = side_of(pair.id, test)
        output.add(side, pair)
        counts[side] += 1
    output.close()
    kept_by = f" by the filter `{filter}`" if filter else ""
    marked = (run.config.get("output_format") or {}).get("mark") == "xmp"
    summary = f"Kept of a run of p2pz_ray{kept_by}. Edits: {', '.join(edits)}."
    store.write("README.md", card(format, counts, summary, marked).encode())
    pushed = send(store.root, push) if push else None
    return Exported(out, counts["train"], counts["test"], dict(left_out), pushed)


def _selected(
    run_uri: str,
    edits: Sequence[str],
    instructions: Instructions,
    filter: str | None,
    duplicates: float,
    left_out: Counter[str],
    storage_options: dict[str, Any] | None,
) -> Iterator[ExportPair]:
    """The pairs that pass the filter and aren't near duplicates of earlier ones, each with its prompt."""
    alike = Alike(duplicates)
    repeats: dict[str, bool] = {}  # by id: all edits of a source are kept, or none
    for edit in edits:
        config = PairsConfig(runs=[run_uri], edit=edit, filter=filter, storage_options=storage_options or {})
        source = PairSource(config)
        for candidate, before, after in source.pictures(source.candidates()):
            if not before or not after:
                source.drop("has both pictures")
                continue
            if candidate.id not in repeats:
                repeats[candidate.id] = _repeats(alike, before)
            if repeats[candidate.id]:
                source.drop("no near duplicate of another")
                continue
            scores = {name: value for name, value in candidate.values.items() if name not in _OWN}
            words = instructions.of(candidate.id, edit)
            yield ExportPair(candidate.id, edit, words, before, after, candidate.values.get("caption"), scores)
        left_out.update(source.dropped)


def _repeats(alike: Alike, picture: bytes) -> bool:
    try:
        return alike.seen(decode(picture, DecodePolicy((64, 64), "stretch")))
    except ImageError:
        return False
