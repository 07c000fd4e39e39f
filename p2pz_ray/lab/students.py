"""Students beside their teacher, the editor, on the same held-out scenes: errors, sharpness, strengths.

The teacher's edits take most of the time, so they are kept in a folder if one is given.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.errors import ConfigError
from p2pz_ray.lab.bench import Bench, Numbers, Outcome, Pixels, Task, change, errors, psnr
from p2pz_ray.lab.figures import Table
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.scene import CHOICES
from p2pz_ray.perceptual import load_perceptual
from p2pz_ray.student import Student
from p2pz_ray.student.repertoire import Parts
from p2pz_ray.student.student import to_tensor

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Strengths at which a student is tried; from one to the next the distance to the source should grow."""
COLUMNS = 20
"""Scenes in a sheet."""


class Taught:
    """A bench's tasks as the teacher edits them, at the checkpoint's own settings. folder: where its edits are kept;
    None keeps them in memory alone."""

    def __init__(self, bench: Bench, folder: Path | None = None) -> None:
        self.bench, self.folder = bench, folder
        self._made: dict[str, Pixels] = {}
        self._distance: torch.nn.Module | None = None

    def edits(self, task: Task) -> Pixels:
        """(N, H, W, 3): the task's scenes, edited."""
        name = task.edit.name
        if name not in self._made:
            editor = self.bench.editor
            made_by = (editor.fingerprint, str(editor.model.unet.dtype), self.bench.direction(task.edit).digest)
            known = (*made_by, self.bench.seed, len(task))
            digest = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
            file = None if self.folder is None else self.folder / f"{name}-{digest}.npy"
            if file is not None and file.exists():
                self._made[name] = np.load(file)
            else:
                self._made[name] = self.bench.edited(task)
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    np.save(file, self._made[name])
        return self._made[name]

    def distance(self, a: Pixels, b: Pixels) -> Numbers:
        """(N,): ST-LPIPS of pictures, (N, H, W, 3) each. NaN where its weights are not installed."""
        try:
            self._distance = self._distance or load_perceptual("stlpips-alex")
        except ConfigError:
            return np.full(len(a), np.nan)
        with torch.inference_mode():  # one by one, since its feature maps are large
            pairs = zip(a[:, None], b[:, None], strict=True)
            return np.array([float(self._distance(to_tensor(x), to_tensor(y))) for x, y in pairs])


def high_frequencies(pictures: Pixels) -> NDArray[np.float64]:
    """(N, H, W, 3) uint8 → (N, H, W): the squared difference between a picture, in 0 … 1, and its blur by 1 2 1 in both
    directions, averaged over the channels. Edge pixels are repeated outwards."""
    x = np.pad(pictures.astype(np.float64) / 255, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    smooth = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return np.square(x[:, 1:-1, 1:-1] - smooth).mean(axis=3)


def sharpness(task: Task, made: Pixels, taught: Pixels) -> float:
    """The energy of high frequencies divided by the teacher's, inside the animals, or over the whole picture for edits
    of the whole; 1 is as sharp as the teacher."""
    inside = np.ones_like(task.outside) if task.of_the_whole else ~task.outside
    energies = [float(high_frequencies(pictures)[inside].mean()) for pictures in (made, taught)]
    return energies[0] / energies[1]


def table(taught: Taught, student: Student, names: Sequence[str]) -> Table:
    """For each edit a row for the teacher, one for the student and one for the unedited source. Errors come with their
    difference to the teacher's and its paired 95 % interval."""
    bench = taught.bench
    head = ["edit", "by", "scenes", "judge", "error to the truth", "… beside the teacher's", "outside both animals"]
    head += ["ST-LPIPS to the teacher", "… of the source's own", "high frequencies, teacher 1", "target's logit"]
    rows = [head]
    for name in names:
        task = bench.task(name)
        teacher = taught.edits(task)
        apart, best = taught.distance(task.sources, teacher), bench.outcome(task, teacher)
        for who, made in {
            "the teacher": teacher,
            "the student": student(task.sources, edit=name),
            "the source left as it is": task.sources,
        }.items():
            outcome = bench.outcome(task, made)
            cells = [name, who, str(len(task)), f"{100 * outcome.hits.mean():.1f} %", f"{outcome.error.mean():.4f}"]
            cells.append("" if made is teacher else _beside(outcome, best))
            cells.append("" if task.of_the_whole else f"{outcome.background.mean():.4f}")
            distance = taught.distance(made, teacher)
            cells += [f"{distance.mean():.4f}", f"{distance.mean() / apart.mean():.2f}"]
            rows.append([*cells, f"{sharpness(task, made, teacher):.2f}", f"{certainty(bench, task, made):.2f}"])
    return rows


def certainty(bench: Bench, task: Task, made: Pixels) -> float:
    """How far the judge's logit for the target lies above the best of the others, on average."""
    margins = []
    with torch.no_grad():
        logits = bench.judge(to_tensor(made))
    for attribute, value in task.edit.after.items():
        wanted = list(CHOICES[attribute]).index(value)
        of = logits[attribute]
        others = of.clone()
        others[:, wanted] = -torch.inf
        margins.append((of[:, wanted] - others.max(1).values).numpy())
    return float(np.mean(margins))


def strengths(taught: Taught, student: Student, names: Sequence[str]) -> Table:
    """How a student obeys the strength: PSNR to the source at 0, the judge's share at each other strength, and the
    share of scenes that move away from the source at every step."""
    known = student.repertoire.width
    rows = [["edit", "PSNR at strength 0, dB", *(f"judge at {s:g}" for s in STRENGTHS[1:]), "scenes that only move on"]]
    for name in names if known else ():
        task = taught.bench.task(name)
        strongest = student.repertoire.skills[name].strongest
        made = [student(task.sources, edit=name, strength=s * strongest) for s in STRENGTHS]
        distances = np.stack([errors(pictures, task.sources).mean((1, 2)) for pictures in made])
        hits = [taught.bench.outcome(task, pictures).hits.mean() for pictures in made[1:]]
        growing = (np.diff(distances, axis=0) > 0).all(axis=0).mean()
        cells = [f"{psnr(distances[0]):.0f}", *(f"{100 * hit:.0f} %" for hit in hits), f"{100 * growing:.1f} %"]
        rows.append([name, *cells])
    return rows


def compositions(taught: Taught, student: Student, names: Sequence[str]) -> Table:
    """Pairs of edits made at once, on scenes that fit both: the share in which the judge sees both."""
    rows = [["edits at once", "scenes", "judge sees both", "the first", "the second"]]
    for pair in combinations(names, 2) if student.repertoire.width else ():
        one, other = (WorldEdit.parse(name) for name in pair)
        if set(one.after) & set(other.after):
            continue
        task = taught.bench.task(one.name)
        fitting = [i for i, scene in enumerate(task.scenes) if other.fits(scene)]
        if not fitting:
            continue
        both: Parts = dict.fromkeys(pair, 1.0)
        seen = taught.bench.judge.see(student(task.sources[fitting], edit=both))
        shown = np.array([[edit.shown(what) for edit in (one, other)] for what in seen])
        cells = [f"{100 * share:.1f} %" for share in (shown.all(axis=1).mean(), *shown.mean(axis=0))]
        rows.append([" + ".join(pair), str(len(fitting)), *cells])
    return rows


def tables(taught: Taught, student: Student, tasks: Sequence[str]) -> Mapping[str, Table]:
    """All tables about a student, for those of `tasks` that it knows, by title."""
    names = known(student, tasks)
    return {
        "quality": table(taught, student, names),
        "strength": strengths(taught, student, names),
        "composition": compositions(taught, student, names),
    }


def known(student: Student, tasks: Sequence[str]) -> list[str]:
    """Those of the tasks that the student can do. Raises ConfigError if there is none."""
    names = [name for name in tasks if not student.repertoire.skills or name in student.repertoire.skills]
    if not names:
        raise ConfigError(f"The student knows {student.repertoire}, none of {', '.join(tasks)}.")
    return names


def sheet(taught: Taught, student: Student, tasks: Sequence[str], file: Path, gap: int = 4) -> None:
    """Write a picture of the first held-out scenes. Each edit has five rows: sources, the teacher's edits, the
    student's at half and at full strength, truths; four for a student without strengths."""
    rows: list[Pixels] = []
    for name in known(student, tasks):
        task = taught.bench.task(name)
        first = slice(0, COLUMNS)
        pictures = [task.sources[first], taught.edits(task)[first], student(task.sources[first], edit=name)]
        if student.repertoire.width:
            half = student.repertoire.skills[name].strongest / 2
            pictures.insert(2, student(task.sources[first], edit=name, strength=half))
        for row in (*pictures, task.truths[first]):
            rows.append(np.concatenate(np.pad(row, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255), axis=1))
        rows.append(np.full((gap, rows[0].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows[:-1])).save(file, optimize=True)


def _beside(outcome: Outcome, teacher: Outcome) -> str:
    return "{:+.1f} ± {:.1f} %".format(*(100 * share for share in change(outcome.error, teacher.error)))
