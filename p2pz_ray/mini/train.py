"""Train the miniature Stable Diffusion on its world: `python -m p2pz_ray.mini.train vae|unet|export`.

The recipe stands in `recipe.yaml`. Training is resumable: a run killed at any moment goes on from its last
checkpoint, and every few hundred steps a sample sheet is written beside it to look at.
"""

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.world import BEHINDS, COATS, KINDS, PLACES, Scene, caption, render, sample_scene

Recipe = dict[str, Any]
RECIPE = Path(__file__).parent / "recipe.yaml"
CHECKPOINT_EVERY = 250


# ------------------------------------------------------------------------------------------------- data


def training_set(recipe: Recipe, out: Path) -> tuple[torch.Tensor, list[Scene]]:
    """The training scenes, drawn once and kept: (N, 3, size, size) uint8 and their attributes."""
    file = out / "scenes.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if len(saved["scenes"]) == recipe["scenes"]:
            return saved["images"], [Scene.from_json(s) for s in saved["scenes"]]
    rng = np.random.default_rng(recipe["seed"])
    scenes = [sample_scene(rng, held_out=False) for _ in range(recipe["scenes"])]
    images = torch.stack([torch.from_numpy(render(s, recipe["size"])[0].copy()) for s in scenes])
    images = images.permute(0, 3, 1, 2).contiguous()
    torch.save({"images": images, "scenes": [s.to_json() for s in scenes]}, file)
    return images, scenes


def batches(count: int, batch: int, seed: int, start: int) -> Iterator[torch.Tensor]:
    """Endless batches of indices, one shuffle an epoch; beginning at step `start` as if never interrupted."""
    per_epoch = count // batch
    step = start
    while True:
        epoch, at = divmod(step, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        for i in range(at, per_epoch):
            yield order[i * batch : (i + 1) * batch]
        step = (epoch + 1) * per_epoch


def to_signal(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to -1 … 1, in the memory layout that convolutions like."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def sheet(images: torch.Tensor, file: Path, columns: int = 8, zoom: int = 2) -> None:
    """Write (N, 3, h, w) in -1 … 1 as one PNG."""
    rows = [torch.cat(list(images[i : i + columns]), dim=2) for i in range(0, len(images), columns)]
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(file)


# ------------------------------------------------------------------------------------------- the loop


class Checkpoint:
    """Everything a training needs to go on: named modules, their optimizer and the step."""

    def __init__(self, file: Path, **parts: Any):
        self.file, self.parts = file, parts

    def load(self) -> int:
        """Restore the parts; returns the step to go on from (0 without a checkpoint)."""
        if not self.file.exists():
            return 0
        saved = torch.load(self.file, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return int(saved["step"])

    def save(self, step: int) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        fresh = self.file.with_suffix(".tmp")
        torch.save({"step": step, **state}, fresh)
        os.replace(fresh, self.file)


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Warm up, hold, then fall linearly to zero: a longer training can start from any held checkpoint."""
    share = min(1.0, (step + 1) / 200, (recipe["steps"] - step) / recipe["cooldown"])
    for group in optimizer.param_groups:
        group["lr"] = recipe["rate"] * share


class Log:
    """A line of progress every `every` steps, and the same numbers as JSON lines in a file."""

    def __init__(self, file: Path, total: int, every: int = 50):
        self.file, self.total, self.every = file, total, every
        self.sums: dict[str, float] = {}
        self.began = time.time()

    def add(self, step: int, **losses: float) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss / self.every
        if (step + 1) % self.every == 0:
            speed = self.every / (time.time() - self.began)
            line = {
                "step": step + 1,
                **{k: round(v, 5) for k, v in self.sums.items()},
                "steps/s": round(speed, 2),
            }
            print(f"{step + 1}/{self.total} {line}", flush=True)
            with self.file.open("a") as f:
                f.write(json.dumps(line) + "\n")
            self.sums, self.began = {}, time.time()


# -------------------------------------------------------------------------------------------------- VAE


def build_vae(recipe: Recipe) -> AutoencoderKL:
    channels = tuple(recipe["vae"]["channels"])
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=recipe["size"],
        mid_block_add_attention=False,
    )


def train_vae(recipe: Recipe, out: Path) -> None:
    settings = recipe["vae"]
    torch.manual_seed(recipe["seed"])
    images, _ = training_set(recipe, out)
    vae = build_vae(recipe).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoint = Checkpoint(out / "vae.pt", vae=vae, optimizer=optimizer)
    start = checkpoint.load()
    log = Log(out / "vae.jsonl", settings["steps"])
    draws = batches(len(images), settings["batch"], recipe["seed"], start)
    for step in range(start, settings["steps"]):
        set_rate(optimizer, settings, step)
        torch.manual_seed(recipe["seed"] + step)
        x = to_signal(images[next(draws)])
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        error = y - x
        kl = posterior.kl().mean()
        loss = error.abs().mean() + error.square().mean() + settings["kl"] * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        log.add(step, loss=loss.item(), psnr=-10 * math.log10(error.square().mean().item() / 4), kl=kl.item())
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == settings["steps"]:
            checkpoint.save(step + 1)
            sheet(torch.cat([x[:8], y[:8].detach()]), out / "vae.png")


@torch.no_grad()
def latents(vae: AutoencoderKL, images: torch.Tensor, out: Path) -> torch.Tensor:
    """Unscaled posterior means and deviations, (N, 8, h, w), computed once for a finished VAE and kept."""
    file = out / "latents.pt"
    if file.exists() and file.stat().st_mtime > (out / "vae.pt").stat().st_mtime:
        return torch.load(file, weights_only=True)
    found = []
    for chunk in images.split(64):
        posterior = vae.encode(to_signal(chunk)).latent_dist
        found.append(torch.cat([posterior.mean, posterior.std], dim=1))
    # One memory layout, computed or loaded: sums in another order would end a resumed training elsewhere.
    moments = torch.cat(found).contiguous()
    torch.save(moments, file)
    return moments


# ------------------------------------------------------------------------------------------ text and UNet


def build_tokenizer(recipe: Recipe, out: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's form, learned from the world's captions and the sentence bank."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    folder = out / "tokenizer"
    if not (folder / "vocab.json").exists():
        rng = np.random.default_rng(recipe["seed"])
        texts = [caption(sample_scene(rng), rng) for _ in range(4000)]
        texts += [s for kind in KINDS for s in template_bank(kind, 1000)]
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        bpe.normalizer = normalizers.Lowercase()
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=recipe["text"]["vocabulary"], initial_alphabet=alphabet, end_of_word_suffix="</w>"
        )
        bpe.train_from_iterator(texts, trainer)
        folder.mkdir(parents=True, exist_ok=True)
        learned = json.loads(bpe.to_str())["model"]
        merges = [m if isinstance(m, str) else " ".join(m) for m in learned["merges"]]
        # CLIP's vocabulary: each byte alone, each byte at a word's end, what merging makes, two markers.
        words = alphabet + [a + "</w>" for a in alphabet] + [m.replace(" ", "") for m in merges]
        words += ["<|startoftext|>", "<|endoftext|>"]
        vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=recipe["text"]["tokens"]
    )


def build_text(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    settings = recipe["text"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings["width"],
            intermediate_size=4 * settings["width"],
            num_hidden_layers=settings["layers"],
            num_attention_heads=settings["heads"],
            max_position_embeddings=settings["tokens"],
            projection_dim=settings["width"],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    channels = tuple(recipe["unet"]["channels"])
    return UNet2DConditionModel(
        sample_size=recipe["size"] // 4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=recipe["text"]["width"],
        # diffusers reads this as the number of heads when it is given as a tuple for this class
        attention_head_dim=tuple(c // recipe["unet"]["head_width"] for c in channels),
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def bank_for(word: str) -> list[str]:
    """Bank sentences for `word` that say nothing of the attributes a scene has: what they say must be true."""
    spoken = " ".join([*COATS, *(p for ps in [*PLACES.values(), *BEHINDS.values()] for p in ps)]).split()
    attributes = set(spoken) - {"a", "an", "the", "on", "in", "at", "by", "of", "with", "under", "front"}
    said = set(word.split())
    return [s for s in template_bank(word, 6000) if not attributes & (set(s.split()) - said)]


def caption_for(scene: Scene, rng: np.random.Generator, bank: dict[str, list[str]], settings: Recipe) -> str:
    draw = rng.random()
    if draw < settings["dropout"]:
        return ""
    if draw < settings["dropout"] + settings["bank_share"]:
        sentences = bank[f"{scene.kind} with glasses" if scene.glasses else scene.kind]
        return sentences[int(rng.integers(len(sentences)))]
    return caption(scene, rng)


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    encoded = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return encoded.input_ids


def train_unet(recipe: Recipe, out: Path) -> None:
    settings = recipe["unet"]
    torch.manual_seed(recipe["seed"])
    images, scenes = training_set(recipe, out)
    vae = build_vae(recipe).to(memory_format=torch.channels_last)
    if Checkpoint(out / "vae.pt", vae=vae).load() == 0:
        raise SystemExit(f"there is no {out / 'vae.pt'}: train the vae first")
    vae.eval().requires_grad_(False)
    moments = latents(vae, images, out)
    mean, std = moments.chunk(2, dim=1)
    scale = 1 / (mean.var() + std.square().mean()).sqrt().item()
    print(f"latent scale {scale:.4f}, channel means {(mean.mean((0, 2, 3)) * scale).tolist()}", flush=True)
    (out / "scale.json").write_text(json.dumps(scale))

    tokenizer = build_tokenizer(recipe, out)
    bank = {k + more: bank_for(k + more) for k in KINDS for more in ("", " with glasses")}
    model = torch.nn.ModuleDict({"text": build_text(recipe, tokenizer), "unet": build_unet(recipe)})
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-2)
    checkpoint = Checkpoint(out / "unet.pt", model=model, ema=ema, optimizer=optimizer)
    start = checkpoint.load()
    alphas = build_scheduler().alphas_cumprod
    log = Log(out / "unet.jsonl", settings["steps"])
    draws = batches(len(images), settings["batch"], recipe["seed"], start)
    for step in range(start, settings["steps"]):
        set_rate(optimizer, settings, step)
        torch.manual_seed(recipe["seed"] + step)
        rng = np.random.default_rng([recipe["seed"], step])
        index = next(draws)
        texts = [caption_for(scenes[i], rng, bank, settings) for i in index.tolist()]
        x0 = scale * (mean[index] + std[index] * torch.randn_like(mean[index]))
        noise = torch.randn_like(x0)
        # One timestep from each of `batch` equal strata: less variance than independent draws.
        t = ((torch.randperm(len(index)) + torch.rand(len(index))) / len(index) * len(alphas)).long()
        a = alphas[t][:, None, None, None]
        x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        c = model["text"](tokens_of(tokenizer, texts)).last_hidden_state
        error = F.mse_loss(model["unet"](x, t, c).sample, noise, reduction="none").mean((1, 2, 3))
        snr = alphas[t] / (1 - alphas[t])
        loss = (error * snr.clamp(max=settings["min_snr"]) / snr).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(settings["ema"], (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        log.add(step, loss=loss.item(), error=error.mean().item())
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == settings["steps"]:
            checkpoint.save(step + 1)
        if (step + 1) % (4 * CHECKPOINT_EVERY) == 0:
            export(recipe, out, out / "model")
            samples(out / "model", out / "unet.png")


# ------------------------------------------------------------------------------------------------ export


def export(recipe: Recipe, out: Path, to: Path) -> None:
    """Write the averaged weights as a fp16 StableDiffusionPipeline folder."""
    vae = build_vae(recipe)
    Checkpoint(out / "vae.pt", vae=vae).load()
    vae.register_to_config(scaling_factor=json.loads((out / "scale.json").read_text()))
    tokenizer = build_tokenizer(recipe, out)
    ema = torch.nn.ModuleDict({"text": build_text(recipe, tokenizer), "unet": build_unet(recipe)})
    Checkpoint(out / "unet.pt", ema=ema).load()
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=ema["text"].half(),
        tokenizer=tokenizer,
        unet=ema["unet"].half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(to, safe_serialization=True)
    # transformers loads weights as its configuration says, diffusers as float32: let them agree.
    (to / "editing.json").write_text(json.dumps(recipe["editing"]) + "\n")
    notes = to / "text_encoder" / "config.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "dtype": "float32"}, indent=2) + "\n")


def samples(model: Path, file: Path, guidance: float = 4.0) -> None:
    """Text to image for every animal on held-out scenes, by the stock pipeline."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(7)
    texts = [caption(sample_scene(rng, held_out=True, kind=k), rng) for k in KINDS for _ in range(4)]
    generator = torch.Generator().manual_seed(7)
    made = pipeline(texts, 64, 64, 25, guidance_scale=guidance, generator=generator, output_type="pt").images
    sheet(made.float() * 2 - 1, file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.mini.train", description=__doc__)
    parser.add_argument("what", choices=["vae", "unet", "export"])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path("training"), help="checkpoints and sample sheets")
    parser.add_argument("--to", type=Path, default=MODEL, help="export: where the model folder is written")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    recipe = yaml.safe_load(given.recipe.read_text())
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "export":
        export(recipe, given.out, given.to)
    else:
        {"vae": train_vae, "unet": train_unet}[given.what](recipe, given.out)


if __name__ == "__main__":
    main()
