"""A table of edited photographs, one row per task: `python -m p2pz_ray.report.task_table FOLDER`.

FOLDER holds TASK_N_source.jpg and TASK_N_edited.jpg, where TASK is WORD2WORD, such as cat2dog. All networks come as
Python packages, so no column is the paper's, which uses CLIP, DINO and LPIPS:

    source     share of sources in which EfficientNet-lite0 finds the source's word likelier than the target's
    target     share of edits in which it finds the target's word likelier; first: whose top class is the target's
    background ST-LPIPS outside the source's object, which u2netp finds
    structure  structure distance with EfficientNet-lite0's features; shuffled: of sources to the edits of other sources
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from p2pz_ray.errors import ConfigError, ImageError, P2PZError
from p2pz_ray.evaluation.metrics.background import BackgroundDistance
from p2pz_ray.evaluation.metrics.metric import Metric, Pair, Pixels
from p2pz_ray.evaluation.metrics.photographs import PhotographAccuracy, photograph_structure
from p2pz_ray.evaluation.metrics.saliency import Saliency
from p2pz_ray.evaluation.metrics.structure import apart
from p2pz_ray.evaluation.metrics.truth import picture_size
from p2pz_ray.picture.codec import DecodePolicy, decode

_NAME = re.compile(r"(?P<task>[a-z]+2[a-z]+)_(?P<number>\d+)_source\.(jpg|jpeg|png)")
HEADS = ("task", "pairs", "source", "target", "first", "background", "structure", "shuffled")


@dataclass(frozen=True)
class Line:
    """One task's figures; None if the classifier doesn't know a word, or there is only one pair."""

    task: str
    pairs: int
    source: float | None
    target: float | None
    first: float | None
    background: float | None
    structure: float
    shuffled: float | None

    def __str__(self) -> str:
        found = (self.source, self.target, self.first)
        shares = ["–" if share is None else f"{round(share * self.pairs)}/{self.pairs}" for share in found]
        distances = (self.background, self.structure, self.shuffled)
        rest = ["–" if distance is None else f"{distance:.4f}" for distance in distances]
        return _spaced([self.task, str(self.pairs), *shares, *rest])


def read_pairs(folder: Path) -> dict[str, list[Pair]]:
    """Task → pairs in order, with the source's mask. Raises ConfigError for no pairs, or one without its edit."""
    saliency, found = Saliency(), defaultdict[str, list[tuple[int, Pair]]](list)
    for file in sorted(folder.glob("*_source.*")):
        named = _NAME.fullmatch(file.name)
        if not named:
            continue
        edited = file.with_name(file.name.replace("_source.", "_edited."))
        if not edited.is_file():
            raise ConfigError(f"{edited} is missing: {file.name} needs its edited picture.")
        task, words = named["task"], named["task"].split("2", 1)
        source, after = _pixels(file), _pixels(edited)
        if source.shape != after.shape:
            sizes = [f"{pixels.shape[1]} × {pixels.shape[0]}" for pixels in (after, source)]
            raise ConfigError(f"{edited} is {sizes[0]} pixels and its source {sizes[1]}: make them the same size.")
        pair = Pair(file.stem, task, source, after, (words[0], words[1]), mask=saliency(source))
        found[task].append((int(named["number"]), pair))
    if not found:
        raise ConfigError(f"{folder} has no TASK_N_source.jpg, such as cat2dog_1_source.jpg: give another folder.")
    return {task: [pair for _, pair in sorted(pairs, key=lambda item: item[0])] for task, pairs in found.items()}


def table(tasks: dict[str, list[Pair]]) -> list[Line]:
    """One row per task."""
    accuracy, background, structure = PhotographAccuracy(), BackgroundDistance("stlpips-alex"), photograph_structure()
    lines = []
    for task, pairs in tasks.items():
        # The sources in place of the edits, and the words swapped, to see the source's word before the edit.
        before = [replace(p, edited=p.source, words=p.words and p.words[::-1]) for p in pairs]
        sources = [structure.similarity([pair.source])[0] for pair in pairs]
        edits = [structure.similarity([pair.edited])[0] for pair in pairs]
        distances = apart(torch.stack(sources)[:, None], torch.stack(edits)[None])
        own = torch.eye(len(pairs), dtype=torch.bool)
        lines.append(
            Line(
                task,
                len(pairs),
                _mean(accuracy, "efficientnet_lite0_closer", before),
                _mean(accuracy, "efficientnet_lite0_closer", pairs),
                _mean(accuracy, "efficientnet_lite0_target", pairs),
                _mean(background, "background_stlpips", pairs),
                float(distances[own].mean()),
                float(distances[~own].mean()) if len(pairs) > 1 else None,
            )
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.report.task_table", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    try:
        lines = table(read_pairs(parser.parse_args(arguments).folder))
    except P2PZError as error:
        print(error, file=sys.stderr)
        return 2
    print(_spaced(HEADS))
    for line in lines:
        print(line)
    return 0


def _pixels(file: Path) -> Pixels:
    data = file.read_bytes()
    try:
        return decode(data, DecodePolicy(picture_size(data)))
    except (ImageError, OSError) as error:
        raise ConfigError(f"{file} is no readable picture: replace it, or leave its pair out.") from error


def _mean(metric: Metric, column: str, pairs: Sequence[Pair]) -> float | None:
    values = [value for pair in pairs if (value := metric([pair])[column][0]) is not None]
    return sum(values) / len(values) if values else None


def _spaced(cells: Sequence[str]) -> str:
    return f"{cells[0]:<14}" + "".join(f"{cell:>12}" for cell in cells[1:])


if __name__ == "__main__":
    sys.exit(main())
