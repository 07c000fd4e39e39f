"""The bench: held-out scenes of a task, edited under any settings and measured against their exact truths.

Errors are mean squared differences of pixel values 0 … 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p2pz_ray.editing import EditDirection, Editor, GuidanceSettings, Inversion, InversionSettings
from p2pz_ray.editing.model import chosen_device
from p2pz_ray.evaluation.interval import mean
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.judge import Judge
from p2pz_ray.mini.world import Scene, caption, render, sample_scene

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]
TASKS = ("cat2dog", "horse2zebra", "cat2glasses", "sketch2oil", "dog2fox", "rabbit2hat")
SENTENCES = 1000
BATCH = {"cpu": 24, "cuda": 256}


@dataclass(frozen=True)
class Outcome:
    """The results of N edits, each an array (N,).

    hits: whether the judge sees the target.
    error: the mean squared error to the truth.
    background: the same to the source, outside the animals of source and truth; NaN for edits of the whole picture.
    """

    hits: NDArray[np.bool_]
    error: Numbers
    background: Numbers


class Task:
    """An edit and `count` held-out scenes to try it on, drawn from a seed, with their captions, pictures and truths."""

    def __init__(self, name: str, count: int, seed: int) -> None:
        self.edit = WorldEdit.parse(name)
        rng = np.random.default_rng(seed)
        self.scenes = [sample_scene(rng, held_out=True, **self.edit.before) for _ in range(count)]
        self.captions = [caption(scene, rng) for scene in self.scenes]

    def __len__(self) -> int:
        return len(self.scenes)

    @cached_property
    def _drawn(self) -> tuple[list[Any], list[Any]]:
        return [render(scene) for scene in self.scenes], [render(self.edit.truth(scene)) for scene in self.scenes]

    @property
    def sources(self) -> Pixels:
        return np.stack([picture for picture, _ in self._drawn[0]])

    @property
    def truths(self) -> Pixels:
        return np.stack([picture for picture, _ in self._drawn[1]])

    @property
    def animals(self) -> NDArray[np.bool_]:
        """(N, H, W): masks of the sources' animals."""
        return np.stack([mask for _, mask in self._drawn[0]])

    @cached_property
    def outside(self) -> NDArray[np.bool_]:
        """(N, H, W): the background, where neither the source nor its truth has its animal."""
        return np.stack([~(a | b) for (_, a), (_, b) in zip(*self._drawn, strict=True)])

    @property
    def of_the_whole(self) -> bool:
        """Whether the edit changes the whole picture, which leaves no background."""
        return bool({"style", "season"} & set(self.edit.after))

    def background(self, made: Pixels) -> Numbers:
        """(N,): each edited picture's error to its source in the background."""
        if self.of_the_whole:
            return np.full(len(self), np.nan)
        error = errors(made, self.sources)
        return np.array([pixels[mask].mean() for pixels, mask in zip(error, self.outside, strict=True)])


class Bench:
    """A miniature, its judge, and the tasks it is measured on, each of `count` scenes drawn from a seed. dtype: the
    precision of p2pz_ray's own edits."""

    def __init__(self, model: Path, judge: Path, count: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.folder, self.count, self.seed = model, count, seed
        self.device = chosen_device("auto")
        self.editor = Editor.from_pretrained(model, device=self.device, dtype=dtype)
        self.judge = Judge.load(judge)
        self._tasks: dict[str, Task] = {}
        self._directions: dict[str, EditDirection] = {}
        self._floors: dict[str, float] = {}
        self._inversions: dict[tuple[Any, ...], list[Inversion]] = {}

    def task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = Task(name, self.count, self.seed)
        return self._tasks[name]

    def direction(self, edit: WorldEdit) -> EditDirection:
        """The edit's direction, from the template bank's sentences for its two words."""
        if edit.name not in self._directions:
            source, target = (template_bank(word, SENTENCES) for word in edit.words)
            named = dict(zip(("source", "target"), edit.words, strict=True))
            self._directions[edit.name] = self.editor.direction(source, target, **named)
        return self._directions[edit.name]

    def nothing(self) -> EditDirection:
        """A direction of zeros, which leaves the caption as it is."""
        return EditDirection(torch.zeros(self.editor.model.text.tokens, self.editor.model.text.width))

    def parts(self, count: int) -> list[slice]:
        """Slices that split `count` pictures into batches this machine can hold."""
        size = BATCH[self.device]
        return [slice(start, start + size) for start in range(0, count, size)]

    def inverted(self, task: Task, **settings: Any) -> list[Inversion]:
        """The task's inversions, one per batch. Those of the latest task are kept, since many settings share them."""
        key = (task.edit.name, *sorted(settings.items()))
        if key not in self._inversions:
            self._inversions = {k: v for k, v in self._inversions.items() if k[0] == task.edit.name}
            self.editor.inversion = InversionSettings(**settings)
            self._inversions[key] = [
                self.editor.invert(task.sources[part], task.captions[part], range(part.start, part.start + n))
                for part in self.parts(len(task))
                for n in [len(task.captions[part])]
            ]
        return self._inversions[key]

    def edited(
        self,
        task: Task,
        inversion: Mapping[str, Any] | None = None,
        guidance: Mapping[str, Any] | None = None,
        swap: bool = False,
    ) -> Pixels:
        """(N, H, W, 3): the task's pictures, edited.

        Args:
            inversion, guidance: settings; those left out are the checkpoint's own.
            swap: replace the word in the caption instead of adding a direction.
        """
        self.editor.guidance = GuidanceSettings(**(guidance or {}))
        made = []
        for part, begun in zip(self.parts(len(task)), self.inverted(task, **(inversion or {})), strict=True):
            if swap:
                swapped = [swapped_word(said, task.edit) for said in task.captions[part]]
                begun = replace(begun, c=self.editor.model.embed(swapped))
            direction = self.nothing() if swap else self.direction(task.edit)
            made.append(self.editor.edit(begun, [direction])[:, 0])
        return np.concatenate(made)

    def through_vae(self, pictures: Pixels) -> Pixels:
        return np.concatenate(
            [
                self.editor.model.decode(self.editor.model.encode(pictures[part]))[0]
                for part in self.parts(len(pictures))
            ]
        )

    def floor(self, task: Task) -> float:
        """The background's mean error when the autoencoder alone encodes and decodes the sources."""
        if task.edit.name not in self._floors:
            self._floors[task.edit.name] = float(task.background(self.through_vae(task.sources)).mean())
        return self._floors[task.edit.name]

    def outcome(self, task: Task, made: Pixels) -> Outcome:
        """Measures a task's edited pictures (N, H, W, 3)."""
        hits = np.array([task.edit.shown(seen) for seen in self.judge.see(made)])
        return Outcome(hits, errors(made, task.truths).mean((1, 2)), task.background(made))


def swapped_word(caption: str, edit: WorldEdit) -> str:
    """The caption with the edit's source word replaced by its target's."""
    source, target = edit.words
    return caption.replace(source, target)


def drawn(scenes: Sequence[Scene]) -> Pixels:
    return np.stack([render(scene)[0] for scene in scenes])


def errors(made: Pixels, right: Pixels) -> Numbers:
    """(N, H, W): each pixel's squared error, averaged over the channels."""
    return np.square((made.astype(np.float64) - right) / 255).mean(axis=3)


def psnr(error: Numbers) -> float:
    """PSNR in decibels of squared errors (N, …), averaged over the pictures."""
    return float(np.mean([-10 * np.log10(max(picture.mean(), 1e-10)) for picture in error]))


def change(value: Numbers, baseline: Numbers) -> tuple[float, float]:
    """The mean difference to the baseline over paired scenes, and half the width of its 95 % interval; both as shares
    of the baseline's mean."""
    difference, middle = mean(value - baseline), float(baseline.mean())
    assert difference is not None
    half = math.nan if difference.high is None else difference.high - difference.mean
    return difference.mean / middle, half / middle
