"""The miniature's figures, all on held-out scenes: `python -m p2pz_ray.mini.figures [vae clip text inversion edits …]`.

Prints one Markdown table for each thing asked for. Errors are mean squared differences of pixel values 0 … 1.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray import EditDirection, Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.inversion import Inversion
from p2pz_ray.editing.model import chosen_device
from p2pz_ray.evaluation.ablation import STEPS
from p2pz_ray.evaluation.clip import ClipScore
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.judge import FOLDER, Judge
from p2pz_ray.mini.world import CHOICES, Scene, caption, render, sample_scene

Pixels = NDArray[np.uint8]
TASKS = ("cat2dog", "horse2zebra", "cat2glasses", "sketch2oil", "dog2fox", "rabbit2hat")
SENTENCES = 1000
BATCH = {"cpu": 8, "cuda": 256}
Table = list[list[str]]


class Bench:
    """What every figure needs: the model, the judge and how many scenes, drawn from a seed no training has had."""

    def __init__(self, model: Path, judge: Path, count: int, seed: int, rivals: int) -> None:
        self.folder, self.count, self.seed, self.rivals = model, count, seed, rivals
        self.device = chosen_device("auto")
        self.editor = Editor.from_pretrained(model, device=self.device)
        self.judge = Judge.load(judge)

    def scenes(self, fixed: Mapping[str, object] | None = None) -> tuple[list[Scene], list[str]]:
        """Held-out scenes with some attributes fixed, and their captions."""
        rng = np.random.default_rng(self.seed)
        scenes = [sample_scene(rng, held_out=True, **(fixed or {})) for _ in range(self.count)]
        return scenes, [caption(scene, rng) for scene in scenes]

    def chunks(self, count: int) -> list[slice]:
        """`count` pictures in parts of as many as this machine takes at once."""
        size = BATCH[self.device]
        return [slice(start, start + size) for start in range(0, count, size)]

    def invert(self, scenes: Sequence[Scene], captions: Sequence[str], **settings: Any) -> Inversion:
        self.editor.inversion = InversionSettings(**settings)
        return self.editor.invert(drawn(scenes), captions, range(len(scenes)))

    def edit(self, inverted: Inversion, direction: EditDirection, **settings: Any) -> Pixels:
        """(B, H, W, 3). One editor serves all settings: two would fight over the UNet's attention."""
        self.editor.guidance = GuidanceSettings(**settings)
        return self.editor.edit(inverted, [direction])[:, 0]

    def nothing(self) -> EditDirection:
        """The direction that changes no word."""
        return EditDirection(torch.zeros(self.editor.model.text.tokens, self.editor.model.text.width))

    def direction(self, edit: WorldEdit) -> EditDirection:
        source, target = (template_bank(word, SENTENCES) for word in edit.words)
        return self.editor.direction(source, target)


def drawn(scenes: Sequence[Scene]) -> Pixels:
    return np.stack([render(scene)[0] for scene in scenes])


def errors(made: Pixels, right: Pixels) -> NDArray[np.float64]:
    """(N, H, W): each pixel's squared error, over the channels."""
    return np.square((made.astype(np.float64) - right) / 255).mean(axis=3)


def psnr(error: NDArray[np.float64]) -> float:
    """Mean over the pictures of each one's decibels."""
    return float(np.mean([-10 * np.log10(max(one.mean(), 1e-10)) for one in error]))


def outside(error: NDArray[np.float64], before: Sequence[Scene], after: Sequence[Scene]) -> float:
    """The mean error where neither scene has its animal."""
    there = np.stack([~(render(a)[1] | render(b)[1]) for a, b in zip(before, after, strict=True)])
    return float(np.mean([one[mask].mean() for one, mask in zip(error, there, strict=True)]))


def vae(bench: Bench) -> Table:
    """How well the autoencoder gives back what it was shown."""
    rows = [["style", "PSNR of the reconstructions, dB"]]
    scenes, _ = bench.scenes()
    error = errors(_through_vae(bench, drawn(scenes)), drawn(scenes))
    for style in ("photo", "sketch", "oil pastel"):
        of_style = np.array([scene.style == style for scene in scenes])
        if of_style.any():
            rows.append([style, f"{psnr(error[of_style]):.1f}"])
    return [*rows, ["all", f"{psnr(error):.1f}"]]


def _through_vae(bench: Bench, pictures: Pixels) -> Pixels:
    return bench.editor.model.decode(bench.editor.model.encode(pictures))[0]


def text(bench: Bench, guidance: float = 5.0, steps: int = 50) -> Table:
    """Text to image by the stock pipeline: how much of what a caption says the judge finds in the picture."""
    pipeline = StableDiffusionPipeline.from_pretrained(bench.folder, safety_checker=None).to(bench.device)
    pipeline.set_progress_bar_config(disable=True)
    scenes, _ = bench.scenes()
    rng = np.random.default_rng(bench.seed)
    captions = [caption(scene, rng, share=1.0) for scene in scenes]
    generator = torch.Generator().manual_seed(bench.seed)
    seen: list[dict[str, Any]] = []
    true = bench.judge.see(drawn(scenes))
    for part in bench.chunks(len(captions)):
        made = pipeline(captions[part], num_inference_steps=steps, guidance_scale=guidance, generator=generator).images
        seen += bench.judge.see(np.stack([np.asarray(image) for image in made]))
    rows = [["attribute", "in pictures made", "in the scenes' own pictures"]]
    for name in CHOICES:
        asked = _with(name, scenes)
        hits = [np.mean([found[i][name] == getattr(scenes[i], name) for i in asked]) for found in (seen, true)]
        rows.append([name, *(f"{100 * hit:.1f} %" for hit in hits)])
    return rows


def clip(bench: Bench) -> Table:
    """How often the miniature's CLIP prefers all that can be said of a picture to the same with one attribute changed.

    What it doesn't tell apart its text half doesn't say to the UNet.
    """
    score = ClipScore(str(bench.folder.parent / "clip"), device=bench.device)
    scenes, _ = bench.scenes()
    pictures = score.image(list(drawn(scenes)))

    def nearness(scenes: Sequence[Scene]) -> torch.Tensor:
        """Each picture's to its own scene's words, which are the same where the scenes are."""
        said = [caption(scene, np.random.default_rng([bench.seed, i]), share=1.0) for i, scene in enumerate(scenes)]
        return (pictures * score.text(said)).sum(1)

    rows, right = [["attribute", "told from another"]], nearness(scenes)
    for name in CHOICES:
        wrong = nearness([_changed(scene, name, i) for i, scene in enumerate(scenes)])
        rows.append([name, f"{100 * (right > wrong)[_with(name, scenes)].float().mean():.1f} %"])
    return rows


def _changed(scene: Scene, attribute: str, number: int) -> Scene:
    """With one of the attribute's other values, in turn."""
    others = [value for value in CHOICES[attribute] if value != getattr(scene, attribute)]
    return scene.with_(**{attribute: others[number % len(others)]})


def _with(attribute: str, scenes: Sequence[Scene]) -> list[int]:
    """The numbers of the scenes that have the attribute: a zebra has no coat of its own."""
    return [i for i, scene in enumerate(scenes) if attribute != "coat" or scene.kind != "zebra"]


def inversion(bench: Bench) -> Table:
    """Inversion and denoising again without an edit, against the autoencoder's own reconstruction."""
    scenes, captions = bench.scenes()
    made = [
        bench.edit(bench.invert(scenes[part], captions[part]), bench.nothing(), lambda_xa=0, cfg=1)
        for part in bench.chunks(len(scenes))
    ]
    error = errors(np.concatenate(made), _through_vae(bench, drawn(scenes)))
    return [["what", "PSNR, dB"], ["inversion and back, against the VAE's reconstruction", f"{psnr(error):.1f}"]]


def edits(bench: Bench) -> Table:
    """The edits at their defaults, beside the source left as it is, no guidance by maps, and diffusers' pipeline."""
    rows = [["edit", "by", "scenes", "judge", "error to the truth", "outside both animals", "× the VAE's there"]]
    for name in TASKS:
        edit = WorldEdit.parse(name)
        before, captions = bench.scenes(edit.before)
        direction = bench.direction(edit)
        full, free = [], []
        for part in bench.chunks(len(before)):
            inverted = bench.invert(before[part], captions[part])
            full.append(bench.edit(inverted, direction))
            free.append(bench.edit(inverted, direction, lambda_xa=0))
        ours = np.concatenate(full)
        rows.append([name, "p2pz_ray", *_measured(bench, edit, before, ours)])
        rows.append([name, "… without guidance by the maps", *_measured(bench, edit, before, np.concatenate(free))])
        rows.append([name, "source left as it is", *_measured(bench, edit, before, drawn(before))])
        if bench.rivals:
            few, told = before[: bench.rivals], captions[: bench.rivals]
            theirs = _by_diffusers(bench, few, told, direction)
            rows.append([name, "diffusers' pipeline", *_measured(bench, edit, few, theirs)])
            rows.append([name, "p2pz_ray, the same scenes", *_measured(bench, edit, few, ours[: len(few)])])
    return rows


def ablation(bench: Bench, name: str = "cat2dog") -> Table:
    """The paper's ablation, step by step as `jobs/ablation.py` runs it, each caption's own word swapped."""
    edit = WorldEdit.parse(name)
    before, captions = bench.scenes(edit.before)
    direction, nothing = bench.direction(edit), bench.nothing()
    made: dict[str, list[Pixels]] = {step.name: [] for step in STEPS}
    for part in bench.chunks(len(before)):
        swapped = bench.editor.model.embed([said.replace(*edit.words) for said in captions[part]])
        inverted = {
            kind: bench.invert(before[part], captions[part], regularization=kind)
            for kind in dict.fromkeys(step.regularization for step in STEPS)
        }
        for step in STEPS:
            begun = inverted[step.regularization]
            begun = replace(begun, c=swapped) if step.swap else begun
            settings: dict[str, float] = {} if step.guided else {"lambda_xa": 0}
            made[step.name].append(bench.edit(begun, nothing if step.swap else direction, **settings))
    rows = [["step", "scenes", "judge", "error to the truth", "outside both animals", "× the VAE's there"]]
    return rows + [[step, *_measured(bench, edit, before, np.concatenate(found))] for step, found in made.items()]


def _measured(bench: Bench, edit: WorldEdit, before: Sequence[Scene], made: Pixels) -> list[str]:
    after = [edit.truth(scene) for scene in before]
    error = errors(made, drawn(after))
    hits = np.mean([edit.shown(seen) for seen in bench.judge.see(made)])
    cells = [str(len(before)), f"{100 * hits:.1f} %", f"{error.mean():.4f}"]
    if "style" in edit.after or "season" in edit.after:  # what changes the whole picture has no background
        return [*cells, "", ""]
    coded = errors(_through_vae(bench, drawn(before)), drawn(before))
    background, floor = outside(error, before, after), outside(coded, before, after)
    return [*cells, f"{background:.4f}", f"{background / floor:.2f}"]


def diffusers_pipeline(folder: Path | str, device: torch.device | str) -> Any:
    """diffusers' own pix2pix-zero pipeline of a checkpoint, which it has deprecated."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionPix2PixZeroPipeline

    pipeline = StableDiffusionPix2PixZeroPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _by_diffusers(bench: Bench, before: Sequence[Scene], captions: Sequence[str], direction: EditDirection) -> Pixels:
    """That pipeline at its defaults, one picture at a time: more would be silently wrong."""
    pipeline = diffusers_pipeline(bench.folder, bench.device)
    target = direction.embedding[None]
    made = []
    for i, (scene, said) in enumerate(zip(before, captions, strict=True)):
        generator = torch.Generator().manual_seed(i)
        image = Image.fromarray(render(scene)[0])
        noise = pipeline.invert(said, image=image, generator=generator).latents
        edited = pipeline(
            said,
            source_embeds=torch.zeros_like(target),
            target_embeds=target,
            negative_prompt=said,
            latents=noise,
            generator=generator,
            output_type="pil",
        )
        made.append(np.asarray(edited.images[0]))
    return np.stack(made)


def sheet(bench: Bench, file: Path, gap: int = 4) -> None:
    """Write a picture: for each task a row of sources, one of edits and one of truths, the first held-out scenes."""
    rows = []
    for name in TASKS:
        edit = WorldEdit.parse(name)
        before, captions = bench.scenes(edit.before)
        made = bench.edit(bench.invert(before, captions), bench.direction(edit))
        for pictures in (drawn(before), made, drawn([edit.truth(scene) for scene in before])):
            rows.append(np.concatenate(np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255), axis=1))
        rows.append(np.full((gap, rows[0].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows[:-1])).save(file, optimize=True)


FIGURES: dict[str, Callable[[Bench], Table]] = {
    "vae": vae,
    "clip": clip,
    "text": text,
    "inversion": inversion,
    "edits": edits,
    "ablation": ablation,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.mini.figures", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; all of them by default")
    parser.add_argument("--count", type=int, default=200, help="scenes a figure")
    parser.add_argument("--seed", type=int, default=271828)
    parser.add_argument("--diffusers", type=int, default=16, help="of them edited by diffusers' pipeline too")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--judge", type=Path, default=FOLDER)
    parser.add_argument("--sheet", type=Path, help="write --count scenes of every task to this picture instead")
    given = parser.parse_args()
    unknown = [name for name in given.what if name not in FIGURES]
    if unknown:
        parser.error(f"there is no figure {unknown[0]}: choose of {', '.join(FIGURES)}")
    bench = Bench(given.model, given.judge, given.count, given.seed, given.diffusers)
    if given.sheet:
        sheet(bench, given.sheet)
        return
    for name in given.what or FIGURES:
        head, *rows = FIGURES[name](bench)
        print(f"\n### {name}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
