"""How good the miniature itself is: its autoencoder, its CLIP, its text to image, its inversion, its edits.

A figure is a function from a bench to a table, whose first row is the header.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from p2pz_ray.editing import GuidanceSettings
from p2pz_ray.evaluation.metrics.clip import ClipScore
from p2pz_ray.lab.bench import TASKS, Bench, Outcome, Task, change, drawn, errors, psnr
from p2pz_ray.mini.world import CHOICES, Scene, caption, sample_scene

Table = list[list[str]]
PAPER: dict[str, dict[str, Any]] = {
    "inversion": {"steps": 50, "regularization": "sampled"},
    "guidance": {"lambda_xa": 0.1, "cfg": 5.0, "strength": 1.0},
}
"""The paper's settings."""
OFFICIAL: dict[str, dict[str, Any]] = {
    "inversion": {"steps": 50, "regularization": "official"},
    "guidance": {"form": "official", "lambda_xa": 0.1, "cfg": 5.0},
}
"""The same in the form of the authors' code."""
MEASURES = ["scenes", "judge", "error to the truth", "outside both animals", "× the VAE's there"]


def held_out(bench: Bench) -> list[Scene]:
    """Scenes of every kind that no training has seen."""
    rng = np.random.default_rng(bench.seed)
    return [sample_scene(rng, held_out=True) for _ in range(bench.count)]


def vae(bench: Bench) -> Table:
    """How well the autoencoder reconstructs pictures."""
    scenes = held_out(bench)
    error = errors(bench.through_vae(drawn(scenes)), drawn(scenes))
    rows = [["style", "PSNR of the reconstructions, dB"]]
    for style in CHOICES["style"]:
        of_style = np.array([scene.style == style for scene in scenes])
        if of_style.any():
            rows.append([str(style), f"{psnr(error[of_style]):.1f}"])
    return [*rows, ["all", f"{psnr(error):.1f}"]]


def text(bench: Bench, guidance: float = 5.0, steps: int = 50) -> Table:
    """Text to image by the stock pipeline: how much of what a caption says the judge finds in the picture."""
    pipeline = StableDiffusionPipeline.from_pretrained(bench.folder, safety_checker=None).to(bench.device)
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out(bench)
    rng = np.random.default_rng(bench.seed)
    captions = [caption(scene, rng, share=1.0) for scene in scenes]
    generator = torch.Generator().manual_seed(bench.seed)
    seen: list[dict[str, Any]] = []
    true = bench.judge.see(drawn(scenes))
    for part in bench.parts(len(captions)):
        made = pipeline(captions[part], num_inference_steps=steps, guidance_scale=guidance, generator=generator).images
        seen += bench.judge.see(np.stack([np.asarray(image) for image in made]))
    rows = [["attribute", "in pictures made", "in the scenes' own pictures"]]
    for name in CHOICES:
        asked = _with(name, scenes)
        hits = [np.mean([found[i][name] == getattr(scenes[i], name) for i in asked]) for found in (seen, true)]
        rows.append([name, *(f"{100 * hit:.1f} %" for hit in hits)])
    return rows


def clip(bench: Bench) -> Table:
    """How often the miniature's CLIP finds a picture closer to a full description than to the same description with one
    attribute changed.

    If CLIP can't tell two values apart, its text encoder can't tell the UNet which one is meant.
    """
    score = ClipScore(str(bench.folder.parent / "clip"), device=bench.device)
    scenes = held_out(bench)
    pictures = score.image(list(drawn(scenes)))

    def nearness(scenes: Sequence[Scene]) -> torch.Tensor:
        """Cosine of each picture with the description of the scene in the same place."""
        said = [caption(scene, np.random.default_rng([bench.seed, i]), share=1.0) for i, scene in enumerate(scenes)]
        return (pictures * score.text(said)).sum(1)

    rows, right = [["attribute", "told from another"]], nearness(scenes)
    for name in CHOICES:
        wrong = nearness([_changed(scene, name, i) for i, scene in enumerate(scenes)])
        rows.append([name, f"{100 * (right > wrong)[_with(name, scenes)].float().mean():.1f} %"])
    return rows


def _changed(scene: Scene, attribute: str, number: int) -> Scene:
    """The scene with another value of the attribute; `number` picks among them in turn."""
    others = [value for value in CHOICES[attribute] if value != getattr(scene, attribute)]
    return scene.with_(**{attribute: others[number % len(others)]})


def _with(attribute: str, scenes: Sequence[Scene]) -> list[int]:
    """The indices of the scenes that have the attribute: a zebra has no coat of its own."""
    return [i for i, scene in enumerate(scenes) if attribute != "coat" or scene.kind != "zebra"]


def inversion(bench: Bench) -> Table:
    """Inversion followed by denoising without an edit, compared with the autoencoder's own reconstruction: at the
    checkpoint's settings, and at 50 steps without and with regularized noise."""
    task = Task("cat2dog", bench.count, bench.seed)
    right = bench.through_vae(task.sources)
    rows = [["what", "PSNR, dB"]]
    settings = {
        "the checkpoint's own": {},
        "50 steps": {"steps": 50, "regularization": "none"},
        "50 steps, L_auto": {"steps": 50, "regularization": "sampled"},
    }
    for name, setting in settings.items():
        bench.editor.guidance = GuidanceSettings(lambda_xa=0, cfg=1)
        made = [bench.editor.edit(begun, [bench.nothing()])[:, 0] for begun in bench.inverted(task, **setting)]
        error = errors(np.concatenate(made), right)
        rows.append([f"inversion and back: {name}", f"{psnr(error):.1f}"])
    return rows


def edits(bench: Bench) -> Table:
    """Every task at the checkpoint's own defaults, beside the same without guidance, and beside the unedited source."""
    rows = [["edit", "by", *MEASURES, "guidance changes the error by", "… and outside by"]]
    for name in TASKS:
        task = bench.task(name)
        free = bench.outcome(task, bench.edited(task, guidance={"lambda_xa": 0}))
        full = bench.outcome(task, bench.edited(task))
        left = bench.outcome(task, task.sources)
        rows.append([name, "p2pz_ray", *measured(bench, task, full), *changed(task, full, free)])
        rows.append([name, "… without guidance by the maps", *measured(bench, task, free), "", ""])
        rows.append([name, "the source left as it is", *measured(bench, task, left), "", ""])
    return rows


def measured(bench: Bench, task: Task, outcome: Outcome) -> list[str]:
    """The cells under MEASURES."""
    cells = [str(len(outcome.hits)), f"{100 * outcome.hits.mean():.1f} %", f"{outcome.error.mean():.4f}"]
    if task.of_the_whole:
        return [*cells, "", ""]
    background = outcome.background.mean()
    return [*cells, f"{background:.4f}", f"{background / bench.floor(task):.2f}"]


def changed(task: Task, outcome: Outcome, baseline: Outcome) -> list[str]:
    """Two cells: how much the error and the background error differ from the baseline's, in percent, with paired 95 %
    intervals."""
    pairs = [(outcome.error, baseline.error)]
    if not task.of_the_whole:
        pairs.append((outcome.background, baseline.background))
    cells = ["{:+.1f} ± {:.1f} %".format(*(100 * share for share in change(*pair))) for pair in pairs]
    return [*cells, *[""] * (2 - len(cells))]


def sheet(bench: Bench, file: Path, gap: int = 4) -> None:
    """Write a picture of the first held-out scenes: for each task a row of sources, one of edits and one of truths."""
    rows = []
    for name in TASKS:
        task = bench.task(name)
        for pictures in (task.sources, bench.edited(task), task.truths):
            rows.append(np.concatenate(np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255), axis=1))
        rows.append(np.full((gap, rows[0].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows[:-1])).save(file, optimize=True)


FIGURES: dict[str, Callable[[Bench], Table]] = {
    "vae": vae,
    "clip": clip,
    "text": text,
    "inversion": inversion,
    "edits": edits,
}
