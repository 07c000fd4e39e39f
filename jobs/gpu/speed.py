"""Speed and memory of whole edits, with the editor and with diffusers' own pipeline."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from gpu.machine import DTYPES, Machine, precision
from gpu.weights import CAPTIONS, SOURCE, TARGET, Weights, run

STEPS = 50
"""The number of steps that times are extrapolated to."""
FEW = (2, 4)
"""The numbers of steps of the two runs whose difference gives the time per step."""


def costs(machine: Machine, work: Callable[[int], Any]) -> dict[str, float]:
    """Seconds per step, and seconds of what is done once, from two runs of few steps after a warm-up run."""
    work(FEW[0])
    short, long = (machine.timed(lambda n=n: work(n))[0] for n in FEW)
    step = max(long - short, 0.0) / (FEW[1] - FEW[0])
    return {"seconds per step": step, "seconds, once": max(short - FEW[0] * step, 0.0)}


def speed(weights: Weights, editor: Any, label: dict[str, Any], B: int, K: int = 1) -> list[dict[str, Any]]:
    """Whole edits of B pictures under K directions, encoding and decoding included."""
    pictures, model = weights.pictures(B), editor.model
    with precision(label["weights"]), weights.machine.watched(model.unet, model.vae, model.text.encoder) as memory:
        cost = costs(weights.machine, lambda steps: run(editor, pictures, steps, K))
    return [{**label, "batch": B, "K": K, **cost, **rate(cost, B * K), **memory}]


def rate(cost: dict[str, float], edits: int) -> dict[str, float]:
    """The seconds of `STEPS` steps, extrapolated, and the edits per second that follow."""
    whole = STEPS * cost["seconds per step"] + cost["seconds, once"]
    return {f"seconds, {STEPS} steps": whole, "edits per second": edits / whole}


def diffusers_speed(weights: Weights, name: str) -> list[dict[str, Any]]:
    """diffusers' own pipeline with the same weights, one picture at a time: its batches are silently wrong."""
    from diffusers import DDIMInverseScheduler, StableDiffusionPix2PixZeroPipeline
    from PIL import Image

    editor = weights.editor(name)
    direction = editor.direction(SOURCE, TARGET)
    dtype, device = DTYPES[name], weights.machine.name
    pipeline = StableDiffusionPix2PixZeroPipeline(
        vae=editor.model.vae,
        text_encoder=copy.deepcopy(weights.text.encoder[0]).to(dtype),
        tokenizer=weights.tokenizer,
        unet=editor.model.unet,
        scheduler=copy.deepcopy(weights.scheduler),
        feature_extractor=None,
        safety_checker=None,
        inverse_scheduler=DDIMInverseScheduler.from_config(weights.scheduler.config),
        caption_generator=None,
        caption_processor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray(weights.pictures(1)[0])
    delta = direction.embedding[None].to(device, dtype)

    def whole(steps: int) -> Any:
        inverted = pipeline.invert(
            CAPTIONS[0],
            image=picture,
            num_inference_steps=steps,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
        )
        return pipeline(
            CAPTIONS[0],
            source_embeds=torch.zeros_like(delta),
            target_embeds=delta,
            num_inference_steps=steps,
            guidance_scale=5.0,
            negative_prompt=CAPTIONS[0],
            latents=inverted.latents,
            output_type="np",
        ).images

    with weights.machine.watched(pipeline.unet, pipeline.vae, pipeline.text_encoder) as memory:
        cost = costs(weights.machine, whole)
    return [{"editor": "diffusers", "weights": name, "batch": 1, "K": 1, **cost, **rate(cost, 1), **memory}]
