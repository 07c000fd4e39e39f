"""A small CLIP, trained to match pictures and captions. Its text encoder conditions the UNet."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from p2pz_ray.mini.training.captions import Captions
from p2pz_ray.mini.training.data import Recipe, batches, drawn, to_signal
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, on_gpu, processor, required, train
from p2pz_ray.mini.training.muon import optimizers
from p2pz_ray.mini.training.tokenizer import build_tokenizer
from p2pz_ray.mini.world import Scene

ALIKE = 64
"""Pictures per group of lookalikes in a batch."""


def build_clip(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    text, vision = recipe["text"], recipe["clip"]
    width = text["width"]
    return CLIPModel(
        CLIPConfig(
            text_config=CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=text["layers"],
                num_attention_heads=text["heads"],
                max_position_embeddings=text["tokens"],
                projection_dim=width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ).to_dict(),
            vision_config=CLIPVisionConfig(
                hidden_size=vision["width"],
                intermediate_size=2 * vision["width"],
                num_hidden_layers=vision["layers"],
                num_attention_heads=vision["heads"],
                image_size=recipe["size"],
                patch_size=vision["patch"],
                projection_dim=width,
            ).to_dict(),
            projection_dim=width,
        )
    )


def trained_text(recipe: Recipe, out: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The tokenizer, and the text encoder of the trained CLIP."""
    tokenizer = build_tokenizer(recipe, out)
    clip = build_clip(recipe, tokenizer)
    required(out / "clip.pt", "clip", clip=clip)
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    return tokenizer, text.eval().requires_grad_(False)


def train_clip(recipe: Recipe, out: Path) -> None:
    settings = recipe["clip"]
    images, scenes = drawn(recipe, out)
    captions = Captions(recipe, out, scenes)
    images = images.to(processor())
    torch.manual_seed(recipe["seed"])
    clip = build_clip(recipe, build_tokenizer(recipe, out))
    clip.to(processor())
    moving = optimizers(clip.named_parameters(), decay=5e-2)
    right = torch.arange(settings["batch"], device=processor())

    def prepare(start: int) -> Any:
        draws = with_lookalikes(scenes, settings["batch"], recipe["seed"], start)

        def loss_at(step: int) -> tuple[torch.Tensor, Numbers]:
            index = next(draws)
            tokens = captions(index)
            seen = clip.visual_projection(clip.vision_model(to_signal(images[index])).pooler_output)
            said = clip.text_projection(_read(clip.text_model(tokens).last_hidden_state, captions.ends(tokens)))
            logits = clip.logit_scale.exp() * F.normalize(seen.float()) @ F.normalize(said.float()).mT
            hits = (logits.argmax(1) == right).float().mean()
            return (F.cross_entropy(logits, right) + F.cross_entropy(logits.mT, right)) / 2, {"hits": hits}

        return loss_at

    train(settings, Checkpoint(out / "clip.pt", clip=clip, **moving), prepare, seed=recipe["seed"], bfloat16=on_gpu())


def _read(states: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(B, L, D) states and (B,) positions where the words end → (B, D). Half of the rows are the state at that
    position, as in CLIP; the others the state at a random later one. So the padding, which the UNet attends to as
    well, learns to carry the sentence."""
    length = states.shape[1]
    later = ends + (torch.rand(len(ends), device=ends.device) * (length - ends)).long()
    at = torch.where(torch.rand(len(ends), device=ends.device) < 0.5, ends, later)
    return states[torch.arange(len(states), device=states.device), at]


def with_lookalikes(scenes: Sequence[Scene], batch: int, seed: int, start: int) -> Iterator[torch.Tensor]:
    """Like `batches`, but every other batch consists of groups of lookalikes: scenes with the same animal, coat and
    ground.

    In a random batch, animal, coat, ground and sky are enough to tell the pictures apart, so CLIP learns little else.
    Among lookalikes it has to learn the pose, the view and the hat.
    """
    alike = defaultdict(list)
    for number, scene in enumerate(scenes):
        alike[scene.kind, scene.coat, scene.ground].append(number)
    size = min(ALIKE, batch)
    groups = [torch.tensor(numbers) for numbers in alike.values() if len(numbers) >= size]
    for step, index in enumerate(batches(len(scenes), batch, seed, start), start):
        if step % 2 and len(groups) >= -(-batch // size):
            generator = torch.Generator().manual_seed(seed + step)
            some = torch.randperm(len(groups), generator=generator)[: -(-batch // size)].tolist()
            drawn = [groups[i][torch.randperm(len(groups[i]), generator=generator)[:size]] for i in some]
            index = torch.cat(drawn)[:batch].to(processor())
        yield index
