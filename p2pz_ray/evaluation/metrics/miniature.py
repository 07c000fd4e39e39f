"""Metrics for the miniature world: its judge, and the object in a picture, found by comparison with the empty scene."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.metric import Mask, Pair, Pixels, Scores
from p2pz_ray.evaluation.metrics.structure import StructureDistance, cells
from p2pz_ray.mini.judge import FOLDER, Judge
from p2pz_ray.mini.world import KINDS, Scene, backdrop

STANDS_OUT = 0.12
"""How much a pixel must differ, in any channel (0 … 1), from the empty scene to belong to the animal."""


class JudgeAccuracy:
    """judge_target: 1 where the miniature's judge sees the target's animal in the edited picture, else 0;
    judge_source: the same for the source's animal. Raises ConfigError where the judge is not installed."""

    def __init__(self) -> None:
        self._judge = load_judge()

    @property
    def columns(self) -> Mapping[str, str]:
        return dict.fromkeys(("judge_target", "judge_source"), "the miniature's judge, kind of animal")

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        seen = [found["kind"] for found in self._judge.see(np.stack([pair.edited for pair in pairs]))]
        words = [pair.words or ("", "") for pair in pairs]
        return {
            f"judge_{side}": [
                float(kind == both[place]) if both[place] in KINDS else None
                for kind, both in zip(seen, words, strict=True)
            ]
            for place, side in enumerate(("source", "target"))
        }


def judge_structure() -> StructureDistance:
    """The structure distance with the judge's features on a grid of 8×8 cells."""
    stages = load_judge().stages[:12]  # three of its stages, each of four parts
    return StructureDistance(
        lambda x: cells(stages(x * 2 - 1)), "structure_judge", "the miniature's judge, third stage's maps"
    )


def load_judge() -> Judge:
    """The shipped judge. Raises ConfigError where it is not installed."""
    try:
        return Judge.load().requires_grad_(False)
    except FileNotFoundError:
        raise ConfigError(
            f"The miniature's judge is not installed ({FOLDER}): leave out what asks for it, such as "
            "metrics.accuracy=null."
        ) from None


def animal(picture: Pixels, scene: Scene) -> Mask:
    """The object in a picture, (H, W, 3) uint8, of an edited scene: where it differs from the scene without an animal,
    with specks removed."""
    if picture.shape[0] != picture.shape[1]:
        raise ValueError(f"a scene is square, not {picture.shape[1]} × {picture.shape[0]}")
    empty = backdrop(scene, picture.shape[0])
    far = np.abs(picture.astype(np.int16) - empty.astype(np.int16)).max(axis=2) > STANDS_OUT * 255
    # A pixel stays if most of its 3×3 neighbourhood is in: blur of the autoencoder is a speck or a thin line.
    grid = torch.from_numpy(far)[None, None].float()
    return (torch.nn.functional.avg_pool2d(grid, 3, 1, 1)[0, 0] > 0.5).numpy() & far
