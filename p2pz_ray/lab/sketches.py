"""Edits that follow a sketch: the miniature's ControlNet is shown the outline that the edited animal should have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from p2pz_ray.editing import Editor
from p2pz_ray.editing.control import Control
from p2pz_ray.evaluation.metrics.miniature import animal
from p2pz_ray.evaluation.metrics.saliency import overlap
from p2pz_ray.lab.bench import Bench, Pixels, Task
from p2pz_ray.lab.figures import MEASURES, Table, changed, measured
from p2pz_ray.mini import CONTROL
from p2pz_ray.mini.world import Scene, outline, render


@dataclass(frozen=True)
class Sketch:
    """An outline for each scene of a task, and the scenes that it is drawn of; none for no condition."""

    name: str
    scenes: tuple[Scene, ...] = ()

    @property
    def pictures(self) -> Pixels | None:
        return np.stack([outline(scene) for scene in self.scenes]) if self.scenes else None


def sketches(task: Task) -> list[Sketch]:
    """No sketch; the truth's outline; and that of another animal than the truth, mirrored and smaller."""
    truths = tuple(task.edit.truth(scene) for scene in task.scenes)
    others = tuple(replace(scene, flip=not scene.flip, size=0.8 * scene.size) for scene in truths)
    return [Sketch("no sketch"), Sketch("the truth's outline", truths), Sketch("a mirrored, smaller outline", others)]


def edited(bench: Bench, task: Task, sketch: Sketch, control: Path = CONTROL) -> Pixels:
    """(N, H, W, 3): a task's pictures, edited at the checkpoint's defaults under the outlines of a sketch."""
    pictures, model = sketch.pictures, bench.editor.model
    controls = [] if pictures is None else [Control(control)]
    editor = Editor(model, controls=controls)
    made = []
    for part in bench.parts(len(task)):
        sources = task.sources[part]
        shown = [] if pictures is None else [pictures[part]]
        seeds = range(part.start, part.start + len(sources))
        inversion = editor.invert(sources, task.captions[part], seeds, shown)
        made.append(editor.edit(inversion, [bench.direction(task.edit)])[:, 0])
    return np.concatenate(made)


def table(bench: Bench, name: str, control: Path = CONTROL) -> Table:
    """Each sketch compared with none. IoU is of the animal found in the edited picture with that of the scene whose
    outline was shown, and with the truth's."""
    task = bench.task(name)
    head = ["sketch", *MEASURES, "IoU with the sketch's animal", "… the truth's"]
    rows = [[*head, "the error changes by", "… outside by"]]
    tried = sketches(task)
    truths, plain = tried[1].scenes, None
    for sketch in tried:
        made = edited(bench, task, sketch, control)
        outcome = bench.outcome(task, made)
        plain = plain or outcome
        ious = [f"{_iou(made, scenes):.3f}" if scenes else "" for scenes in (sketch.scenes, truths)]
        beside = ["", ""] if outcome is plain else changed(task, outcome, plain)
        rows.append([sketch.name, *measured(bench, task, outcome), *ious, *beside])
    return rows


def sheet(bench: Bench, name: str, file: Path, control: Path = CONTROL) -> None:
    """Write a picture with a column per scene: the source, the edit without a sketch; then each sketch above the edit
    that it makes; and the truth."""
    task = bench.task(name)
    rows = [task.sources]
    for sketch in sketches(task):
        pictures = sketch.pictures
        rows += [] if pictures is None else [pictures]
        rows.append(edited(bench, task, sketch, control))
    rows.append(task.truths)
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(file, optimize=True)


def _iou(made: Pixels, scenes: Sequence[Scene]) -> float:
    """The mean IoU of the animals found in edited pictures with those of their scenes."""
    pairs = zip(made, scenes, strict=True)
    return float(np.mean([overlap(animal(picture, scene), render(scene)[1]) for picture, scene in pairs]))
