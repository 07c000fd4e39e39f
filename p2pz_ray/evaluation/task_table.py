"""A table of finished pairs of photographs, a line a task: `python -m p2pz_ray.evaluation.task_table FOLDER`.

FOLDER holds TASK_N_source.jpg and TASK_N_edited.jpg, where TASK is WORD2WORD, such as cat2dog. All networks arrive by
package, so no column is one of the paper's, whose own need CLIP, DINO and LPIPS:

    target     share of edits in which EfficientNet-lite0's first class is the target's; source: in the unedited ones
    background ST-LPIPS outside the source's object, which u2netp finds
    structure  distance of EfficientNet-lite0's self-similarities; shuffled: of sources with others' edits
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation.background import BackgroundDistance
from p2pz_ray.evaluation.metric import Pair
from p2pz_ray.evaluation.photographs import PhotographAccuracy, photograph_structure
from p2pz_ray.evaluation.saliency import Saliency

_NAME = re.compile(r"(?P<task>[a-z]+2[a-z]+)_(?P<number>\d+)_source\.(jpg|jpeg|png)")
HEADS = ("task", "pairs", "source", "target", "background", "structure", "shuffled")


@dataclass(frozen=True)
class Line:
    """One task's figures; None where the classifier doesn't know a word."""

    task: str
    pairs: int
    source: float | None
    target: float | None
    background: float
    structure: float
    shuffled: float

    def __str__(self) -> str:
        shares = ["–" if s is None else f"{round(s * self.pairs)}/{self.pairs}" for s in (self.source, self.target)]
        rest = [f"{value:.4f}" for value in (self.background, self.structure, self.shuffled)]
        return _spaced([self.task, str(self.pairs), *shares, *rest])


def read_pairs(folder: Path) -> dict[str, list[Pair]]:
    """Task → pairs, by number, with the source's mask. Raises ConfigError for none, or one without its edit."""
    saliency, found = Saliency(), defaultdict[str, list[tuple[int, Pair]]](list)
    for file in sorted(folder.glob("*_source.*")):
        named = _NAME.fullmatch(file.name)
        if not named:
            continue
        edited = file.with_name(file.name.replace("_source.", "_edited."))
        if not edited.is_file():
            raise ConfigError(f"{edited} is missing: {file.name} needs its edited picture.")
        task, words = named["task"], named["task"].split("2", 1)
        with Image.open(file) as one, Image.open(edited) as two:
            if one.size != two.size:
                raise ConfigError(f"{edited} is {two.size} pixels large and its source {one.size}: make them alike.")
            source, after = np.asarray(one.convert("RGB")), np.asarray(two.convert("RGB"))
        pair = Pair(file.stem, task, source, after, (words[0], words[1]), mask=saliency(source))
        found[task].append((int(named["number"]), pair))
    if not found:
        raise ConfigError(f"{folder} has no TASK_N_source.jpg, such as cat2dog_1_source.jpg: give another folder.")
    return {task: [pair for _, pair in sorted(pairs, key=lambda item: item[0])] for task, pairs in found.items()}


def table(tasks: dict[str, list[Pair]]) -> list[Line]:
    """A line a task."""
    accuracy, background, structure = PhotographAccuracy(), BackgroundDistance("stlpips-alex"), photograph_structure()
    lines = []
    for task, pairs in tasks.items():
        unedited = [Pair(p.id, p.edit, p.edited, p.source, p.words) for p in pairs]
        shuffled = [Pair(a.id, a.edit, a.source, b.edited) for a in pairs for b in pairs if a is not b]
        lines.append(
            Line(
                task,
                len(pairs),
                _mean([accuracy([p])["efficientnet_lite0_source"][0] for p in unedited]),
                _mean([accuracy([p])["efficientnet_lite0_target"][0] for p in pairs]),
                _mean([background([p])["background_stlpips"][0] for p in pairs]) or 0.0,
                _mean([structure([p])[structure.column][0] for p in pairs]) or 0.0,
                _mean([structure([p])[structure.column][0] for p in shuffled]) or float("nan"),
            )
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.evaluation.task_table", description=__doc__)
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


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _spaced(cells: Sequence[str]) -> str:
    return f"{cells[0]:<14}" + "".join(f"{cell:>12}" for cell in cells[1:])


if __name__ == "__main__":
    sys.exit(main())
