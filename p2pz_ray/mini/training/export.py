"""From checkpoints to what ships: half-precision folders that the stock libraries load, and a sheet to look at."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from p2pz_ray.mini.judge import Judge
from p2pz_ray.mini.training.clip import build_clip, trained_text
from p2pz_ray.mini.training.data import Recipe, sheet
from p2pz_ray.mini.training.judge import build_judge
from p2pz_ray.mini.training.loop import Checkpoint, processor, required
from p2pz_ray.mini.training.tokenizer import write_vocabulary
from p2pz_ray.mini.training.unet import build_scheduler, build_unet
from p2pz_ray.mini.training.vae import build_vae, trained_vae
from p2pz_ray.mini.world import KINDS, caption, sample_scene


def export(recipe: Recipe, out: Path, to: Path) -> None:
    """Write `to`/model (a StableDiffusionPipeline), `to`/clip (a CLIPModel) and `to`/judge from what is trained."""
    pipeline = _pipeline(recipe, out)
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.half()
    pipeline.save_pretrained(to / "model", safe_serialization=True)
    (to / "model" / "editing.json").write_text(json.dumps(recipe["editing"]) + "\n")
    # transformers loads weights as its configuration says, diffusers as float32: let them agree.
    notes = to / "model" / "text_encoder" / "config.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "dtype": "float32"}, indent=2) + "\n")

    clip = build_clip(recipe, pipeline.tokenizer)
    required(out / "clip.pt", "clip", clip=clip)
    clip.half().save_pretrained(to / "clip")
    notes = to / "clip" / "config.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "dtype": "float32"}, indent=2) + "\n")
    pipeline.tokenizer.save_pretrained(to / "clip")
    half = [0.5, 0.5, 0.5]
    size = recipe["size"]
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=half, image_std=half
    ).save_pretrained(to / "clip")

    judge = build_judge(recipe)
    required(out / "judge.pt", "judge", judge=judge)
    judge.save(to / "judge")


def restore(recipe: Recipe, out: Path, shipped: Path) -> None:
    """The other way: the VAE, CLIP and judge of a miniature's folder as finished checkpoints, so that a UNet can be
    trained on them."""
    tokenizer = CLIPTokenizer.from_pretrained(shipped / "clip")
    learned = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_vocabulary(out / "tokenizer", learned["vocab"], learned["merges"])
    clip = build_clip(recipe, tokenizer)
    clip.load_state_dict(CLIPModel.from_pretrained(shipped / "clip").float().state_dict())
    vae, judge = build_vae(recipe), Judge.load(shipped / "judge")
    vae.load_state_dict(AutoencoderKL.from_pretrained(shipped / "model", subfolder="vae").float().state_dict())
    for name, part in (("vae", vae), ("clip", clip), ("judge", judge)):
        Checkpoint(out / f"{name}.pt", **{name: part}).save(recipe[name]["steps"])


def _pipeline(recipe: Recipe, out: Path) -> StableDiffusionPipeline:
    vae, unet = trained_vae(recipe, out), build_unet(recipe)
    required(out / "unet.pt", "unet", ema=unet)
    vae.register_to_config(scaling_factor=json.loads((out / "scale.json").read_text()))
    tokenizer, text = trained_text(recipe, out)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def samples(recipe: Recipe, out: Path, guidance: float = 5.0) -> None:
    """Text to image for every animal on held-out scenes, by the stock pipeline: `out`/unet.png."""
    pipeline = _pipeline(recipe, out).to(processor())
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(7)
    texts = [caption(sample_scene(rng, held_out=True, kind=k), rng) for k in KINDS for _ in range(4)]
    generator, size = torch.Generator().manual_seed(7), recipe["size"]
    made = pipeline(texts, size, size, 25, guidance_scale=guidance, generator=generator, output_type="pt").images
    sheet(made.float() * 2 - 1, out / "unet.png")
