"""Edits confined to a mask: one found from the model's own attention maps, or a soft one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.editing import GuidanceSettings
from p2pz_ray.editing.canny import widened
from p2pz_ray.editing.confine import Wanted, confined
from p2pz_ray.editing.mask import to_picture
from p2pz_ray.evaluation.metrics.saliency import overlap
from p2pz_ray.lab.bench import Bench, Pixels, Task, errors
from p2pz_ray.lab.figures import MEASURES, Table, changed, measured

CONFINED = ("cat2dog", "horse2zebra")
SETTINGS: dict[str, dict[str, Any]] = {
    "not confined": {},
    "confine attention": {"confine": "attention"},
    "… and feathered": {"confine": "attention", "feather": 1},
}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Held:
    """Edits (N, H, W, 3) and the masks (N, H, W) that they were confined to; None if they were not confined."""

    pixels: Pixels
    masks: NDArray[np.float32] | None


def held(bench: Bench, task: Task, guidance: Mapping[str, Any], masks: NDArray[np.float32] | None = None) -> Held:
    """A task's pictures, edited with the checkpoint's settings except for `guidance`, inside `masks` if given."""
    pixels, used = [], []
    for part, inversion in zip(bench.parts(len(task)), bench.inverted(task), strict=True):
        bench.editor.guidance = GuidanceSettings(**guidance)
        batch = None if masks is None else masks[part]
        edits = bench.editor.edit_each(inversion, [bench.direction(task.edit)], masks=batch)
        pixels.append(edits.pixels[:, 0])
        if edits.masks is not None:
            used.append(edits.masks[:, 0])
    return Held(np.concatenate(pixels), np.concatenate(used) if used else None)


def confine(bench: Bench, names: Sequence[str] = CONFINED) -> Table:
    """Edits confined by the model's own maps beside the same edits unconfined. Also the IoU of the found mask with the
    animal's, before and after widening, and the error in a ring of one pixel around both animals and beyond it."""
    rows = [
        ["edit", "by", *MEASURES, "mask's IoU", "… widened", "× the VAE's in the ring", "… beyond",
         "the error changes by", "… outside by"],
    ]  # fmt: skip
    for name in names:
        task = bench.task(name)
        ring = np.stack([widened(~outside) & outside for outside in task.outside])
        places = (ring, task.outside & ~ring)
        floors = [_mean(bench.through_vae(task.sources), task.sources, place) for place in places]
        narrow = _found(bench, task)
        unconfined = None
        for said, guidance in SETTINGS.items():
            made = held(bench, task, guidance)
            outcome = bench.outcome(task, made.pixels)
            unconfined = unconfined or outcome
            ious = ["", ""]
            if made.masks is not None:
                ious = [f"{_iou(masks, task.animals):.3f}" for masks in (narrow, made.masks)]
            times = [
                f"{_mean(made.pixels, task.sources, place) / floor:.2f}"
                for place, floor in zip(places, floors, strict=True)
            ]
            beside = ["", ""] if outcome is unconfined else changed(task, outcome, unconfined)
            rows.append([name, said, *measured(bench, task, outcome), *ious, *times, *beside])
    return rows


def soft(bench: Bench, name: str = "cat2dog") -> Table:
    """Edits under a uniform grey mask: how far they are from the source and from the unmasked edit."""
    task = bench.task(name)
    whole = held(bench, task, {}).pixels
    rows = [["share", "scenes", "difference to the source", "difference to the unmasked edit"]]
    for share in SHARES:
        made = held(bench, task, {}, np.full(task.sources.shape[:3], share, np.float32)).pixels
        apart = [f"{errors(made, other).mean():.5f}" for other in (task.sources, whole)]
        rows.append([f"{share:g}", str(len(task)), *apart])
    return rows


def sheet(bench: Bench, file: Path) -> None:
    """Write a picture with one column per scene. Each task has five rows: sources, edits, found masks, edits confined
    to them, truths. The last two rows are a mask that fades in from left to right and cats edited under it."""
    rows = []
    for name in CONFINED:
        task = bench.task(name)
        kept = held(bench, task, {"confine": "attention", "feather": 1})
        assert kept.masks is not None
        found = np.stack([to_picture(mask) for mask in kept.masks])
        rows += [task.sources, held(bench, task, {}).pixels, found, kept.pixels, task.truths]
    task = bench.task("cat2dog")
    side = task.sources.shape[1]
    grey = np.tile(np.linspace(0, 1, side, dtype=np.float32), (len(task), side, 1))
    rows += [np.stack([to_picture(mask) for mask in grey]), held(bench, task, {}, grey).pixels]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(file, optimize=True)


def _found(bench: Bench, task: Task) -> NDArray[np.float32]:
    """(N, H, W): the masks found from the model's maps, before widening."""
    direction, model = bench.direction(task.edit), bench.editor.model
    settings = GuidanceSettings(confine="attention", confine_widen=0)
    wanted, size = [Wanted.of(model, direction)], (task.sources.shape[1], task.sources.shape[2])
    return np.concatenate(
        [confined(model, begun, direction.condition, wanted, settings, size)[:, 0] for begun in bench.inverted(task)]
    )


def _mean(made: Pixels, right: Pixels, places: NDArray[np.bool_]) -> float:
    error = errors(made, right)
    return float(np.mean([one[place].mean() for one, place in zip(error, places, strict=True)]))


def _iou(masks: NDArray[np.float32], animals: NDArray[np.bool_]) -> float:
    return float(np.mean([overlap(mask > 0, animal) for mask, animal in zip(masks, animals, strict=True)]))
