"""The training data: scenes, drawn once and kept in a file, in batches whose order a resumed training repeats."""

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
"""Scenes in one unit of work for a process. Each unit has its own random generator, so the scenes depend on it."""
FEW = 3
"""Up to this many units of work are done in this process: starting others would take longer."""


def drawn(
    recipe: Recipe, out: Path, name: str = "scenes", held_out: bool | None = False
) -> tuple[torch.Tensor, list[Scene]]:
    """The scenes of a training: (N, 3, size, size) uint8 and their attributes. Drawn once, then read from `out`.

    name: of the file, and of the recipe's section with the seed and the number of scenes.
    held_out: False for the generator's training scenes, None for the judge's, which may have any attributes.
    """
    file = out / f"{name}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if len(saved["scenes"]) == recipe[name]["count"]:
            return saved["images"], [Scene.from_json(s) for s in saved["scenes"]]
    asked = recipe[name]
    pieces = [(asked["seed"], start, min(CHUNK, asked["count"] - start)) for start in range(0, asked["count"], CHUNK)]
    made = in_parallel(_Drawing(recipe["size"], held_out), pieces)
    # Processes return arrays: tensors would go through shared memory, of which there may be little.
    images = torch.from_numpy(np.concatenate([pictures for pictures, _ in made])).permute(0, 3, 1, 2).contiguous()
    scenes = [scene for _, some in made for scene in some]
    torch.save({"images": images, "scenes": [s.to_json() for s in scenes]}, file)
    return images, scenes


@dataclass(frozen=True)
class _Drawing:
    """Draws one unit of scenes: the same ones in whichever process it runs."""

    size: int
    held_out: bool | None

    def __call__(self, piece: tuple[int, int, int]) -> tuple[np.ndarray, list[Scene]]:
        seed, start, count = piece
        rng = np.random.default_rng([seed, start])
        scenes = [sample_scene(rng, held_out=self.held_out) for _ in range(count)]
        return np.stack([render(scene, self.size)[0] for scene in scenes]), scenes


def in_parallel(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """The results of `work` on every task, in order, computed by as many processes as there are cores."""
    if len(tasks) <= FEW:
        return [work(task) for task in tasks]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, tasks))


def batches(count: int, batch: int, seed: int, start: int) -> Iterator[torch.Tensor]:
    """Endless batches of indices, shuffled once per epoch; from step `start` on, as if never interrupted."""
    per_epoch = count // batch
    step = start
    while True:
        epoch, at = divmod(step, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).to(processor())
        for i in range(at, per_epoch):
            yield order[i * batch : (i + 1) * batch]
        step = (epoch + 1) * per_epoch


def to_signal(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as floats in -1 … 1, channels last in memory, which suits convolutions."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def sheet(images: torch.Tensor, file: Path, columns: int = 8, zoom: int = 2) -> None:
    """Write (N, 3, h, w) in -1 … 1 as one PNG."""
    rows = [torch.cat(list(images[i : i + columns]), dim=2) for i in range(0, len(images), columns)]
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(file)
