"""Rivals on the same weights and scenes: diffusers' own pix2pix-zero, SDEdit and DDIM inversion with a swapped word."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p2pz_ray.lab.bench import Bench, Pixels, Task, swapped_word
from p2pz_ray.lab.figures import MEASURES, Table, changed, measured
from p2pz_ray.lab.parts import Part, outcome_of

SDEDIT = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Strengths of img2img: the share of the noise schedule that is added to a picture and removed again."""


def diffusers_pipeline(folder: Path | str, device: torch.device | str) -> Any:
    """diffusers' own pix2pix-zero pipeline of a checkpoint, which it has deprecated."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionPix2PixZeroPipeline

    pipeline = StableDiffusionPix2PixZeroPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def edited_by(
    pipeline: Any,
    picture: NDArray[np.uint8],
    caption: str,
    delta: Tensor,
    steps: int,
    lambda_xa: float,
    cfg: float,
    seed: int = 0,
    reg_steps: int = 5,
) -> NDArray[np.uint8]:
    """One picture (H, W, 3) edited by that pipeline along the direction `delta` (L, D). `reg_steps` 0 turns noise
    regularization off. The pipeline gives wrong results for batches, without an error."""
    delta = delta[None].to(pipeline.device)
    inverted = pipeline.invert(
        caption,
        image=Image.fromarray(picture),
        num_inference_steps=steps,
        num_reg_steps=reg_steps,
        output_type="np",
        generator=torch.Generator().manual_seed(seed),
    )
    made = pipeline(
        caption,
        source_embeds=torch.zeros_like(delta),
        target_embeds=delta,
        negative_prompt=caption,
        latents=inverted.latents,
        num_inference_steps=steps,
        cross_attention_guidance_amount=lambda_xa,
        guidance_scale=cfg,
        output_type="np",
    ).images[0]
    pixels: NDArray[np.uint8] = (made * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


def by_diffusers(bench: Bench, task: Task, steps: int = 50, lambda_xa: float = 0.1, cfg: float = 5.0) -> Pixels:
    """A task's pictures edited by that pipeline. Its own defaults are λ 0.1 and scale 7.5; the paper's scale is 5."""
    pipeline = diffusers_pipeline(bench.folder, bench.device)
    delta = bench.direction(task.edit).embedding
    pictures = enumerate(zip(task.sources, task.captions, strict=True))
    return np.stack([edited_by(pipeline, one, said, delta, steps, lambda_xa, cfg, i) for i, (one, said) in pictures])


def by_sdedit(bench: Bench, task: Task, strength: float, steps: int = 50, cfg: float = 5.0) -> Pixels:
    """SDEdit (Meng et al. 2022): diffusers' img2img with the word swapped in the caption."""
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(bench.folder, safety_checker=None).to(bench.device)
    pipeline.set_progress_bar_config(disable=True)
    made: list[Any] = []
    for part in bench.parts(len(task)):
        said = [swapped_word(one, task.edit) for one in task.captions[part]]
        made += pipeline(
            said,
            image=[Image.fromarray(picture) for picture in task.sources[part]],
            strength=strength,
            num_inference_steps=steps,
            guidance_scale=cfg,
            generator=[torch.Generator().manual_seed(part.start + i) for i in range(len(said))],
        ).images
    return np.stack([np.asarray(image) for image in made])


def rivals(bench: Bench, name: str, shared: Mapping[str, Mapping[str, Any]]) -> Table:
    """SDEdit, and DDIM inversion with a swapped word, on every scene of a task. diffusers' pipeline is too slow for
    that and has a table of its own."""
    task = bench.task(name)
    rows = [["by", *MEASURES]]
    for strength in SDEDIT:
        found = bench.outcome(task, by_sdedit(bench, task, strength))
        rows.append([f"SDEdit, strength {strength:g}", *measured(bench, task, found)])
    plain = Part("", {"regularization": "none"}, {"lambda_xa": 0.0}, swap=True)
    rows.append(["DDIM inversion, swapped word", *measured(bench, task, outcome_of(bench, name, plain, shared))])
    return rows


def beside_diffusers(bench: Bench, name: str, steps: int, lambda_xa: float, cfg: float) -> Table:
    """diffusers' pipeline and ours on the same scenes at the same steps, λ and scale."""
    task = bench.task(name)
    theirs = bench.outcome(task, by_diffusers(bench, task, steps, lambda_xa, cfg))
    made = bench.edited(
        task,
        {"steps": steps, "regularization": "sampled"},
        {"lambda_xa": lambda_xa, "cfg": cfg, "strength": 1.0},
    )
    ours = bench.outcome(task, made)
    said = f"{steps} steps, λ {lambda_xa:g}, scale {cfg:g}"
    return [
        ["by", *MEASURES, "the error beside diffusers", "… outside"],
        [f"diffusers' pipeline, {said}", *measured(bench, task, theirs), "", ""],
        [f"p2pz_ray, {said}", *measured(bench, task, ours), *changed(task, ours, theirs)],
    ]
