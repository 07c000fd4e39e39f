"""What the models are trained on: scenes drawn once and kept, in batches that a resumed training finds again."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from p2pz_ray.mini.training.loop import processor
from p2pz_ray.mini.world import Scene, render, sample_scene

Recipe = dict[str, Any]
Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK = 1000
"""Scenes that one process draws at a time."""
FEW = 3
"""Tasks that are not worth the seconds in which other processes begin."""


def drawn(
    recipe: Recipe, out: Path, name: str = "scenes", held_out: bool | None = False
) -> tuple[torch.Tensor, list[Scene]]:
    """The scenes of a training, drawn once and kept: (N, 3, size, size) uint8 and their attributes.

    name: of the file, and of the seed and the number of scenes in the recipe.
    held_out: False for what a generator is trained on, None for a judge, which may see every combination.
    """
    file = out / f"{name}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if len(saved["scenes"]) == recipe[name]["count"]:
            return saved["images"], [Scene.from_json(s) for s in saved["scenes"]]
    asked = recipe[name]
    pieces = [(asked["seed"], start, min(CHUNK, asked["count"] - start)) for start in range(0, asked["count"], CHUNK)]
    made = in_parallel(_Drawing(recipe["size"], held_out), pieces)
    # Arrays come back from other processes as they are, tensors in shared memory that there may be little of.
    images = torch.from_numpy(np.concatenate([pictures for pictures, _ in made])).permute(0, 3, 1, 2).contiguous()
    scenes = [scene for _, some in made for scene in some]
    torch.save({"images": images, "scenes": [s.to_json() for s in scenes]}, file)
    return images, scenes


@dataclass(frozen=True)
class _Drawing:
    """Draws a piece of a training's scenes, the same whichever process does."""

    size: int
    held_out: bool | None

    def __call__(self, piece: tuple[int, int, int]) -> tuple[np.ndarray, list[Scene]]:
        seed, start, count = piece
        rng = np.random.default_rng([seed, start])
        scenes = [sample_scene(rng, held_out=self.held_out) for _ in range(count)]
        return np.stack([render(scene, self.size)[0] for scene in scenes]), scenes


def in_parallel(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """`work` done on every task, in their order, by as many processes as there are cores."""
    if len(tasks) <= FEW:
        return [work(task) for task in tasks]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, tasks))


def batches(count: int, batch: int, seed: int, start: int) -> Iterator[torch.Tensor]:
    """Endless batches of indices, one shuffle an epoch; beginning at step `start` as if never interrupted."""
    per_epoch = count // batch
    step = start
    while True:
        epoch, at = divmod(step, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).to(processor())
        for i in range(at, per_epoch):
            yield order[i * batch : (i + 1) * batch]
        step = (epoch + 1) * per_epoch


def to_signal(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to -1 … 1, in the memory layout that convolutions like."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def sheet(images: torch.Tensor, file: Path, columns: int = 8, zoom: int = 2) -> None:
    """Write (N, 3, h, w) in -1 … 1 as one PNG."""
    rows = [torch.cat(list(images[i : i + columns]), dim=2) for i in range(0, len(images), columns)]
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(file)
