"""Turns checkpoints into the shipped folders: half-precision weights that diffusers and transformers load."""

import json
from pathlib import Path

from diffusers import AutoencoderKL
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from p2pz_ray.mini.judge import Judge
from p2pz_ray.mini.training.clip import build_clip
from p2pz_ray.mini.training.control import build_control
from p2pz_ray.mini.training.data import Recipe
from p2pz_ray.mini.training.judge import build_judge
from p2pz_ray.mini.training.loop import Checkpoint, required
from p2pz_ray.mini.training.pipeline import assembled
from p2pz_ray.mini.training.tokenizer import write_vocabulary
from p2pz_ray.mini.training.unet import build_unet
from p2pz_ray.mini.training.vae import build_vae


def export(recipe: Recipe, out: Path, to: Path) -> None:
    """Write `to`/model (a StableDiffusionPipeline), `to`/clip (a CLIPModel) and `to`/judge from the checkpoints,
    and `to`/control (a ControlNetModel) if there is one."""
    unet = build_unet(recipe)
    required(out / "unet.pt", "unet", ema=unet)
    pipeline = assembled(recipe, out, unet)
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.half()
    pipeline.save_pretrained(to / "model", safe_serialization=True)
    (to / "model" / "editing.json").write_text(json.dumps(recipe["editing"]) + "\n")
    # transformers loads weights in the configuration's precision, diffusers in float32: make them agree.
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

    if (out / "control.pt").exists():
        control = build_control(recipe, unet)
        required(out / "control.pt", "control", ema=control)
        control.half().save_pretrained(to / "control")


def restore(recipe: Recipe, out: Path, shipped: Path) -> None:
    """The reverse of `export`: writes the VAE, CLIP and judge of a miniature's folder as finished checkpoints, so that
    a UNet can be trained on them."""
    tokenizer = CLIPTokenizer.from_pretrained(shipped / "clip")
    learned = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_vocabulary(out / "tokenizer", learned["vocab"], learned["merges"])
    clip = build_clip(recipe, tokenizer)
    clip.load_state_dict(CLIPModel.from_pretrained(shipped / "clip").float().state_dict())
    vae, judge = build_vae(recipe), Judge.load(shipped / "judge")
    vae.load_state_dict(AutoencoderKL.from_pretrained(shipped / "model", subfolder="vae").float().state_dict())
    for name, part in (("vae", vae), ("clip", clip), ("judge", judge)):
        Checkpoint(out / f"{name}.pt", **{name: part}).save(recipe[name]["steps"])
