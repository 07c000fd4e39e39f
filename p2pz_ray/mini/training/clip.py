"""A small CLIP, contrastive over pictures and captions: its text half conditions the UNet, as in Stable Diffusion."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.training.data import Recipe, batches, drawn, to_signal
from p2pz_ray.mini.training.loop import Checkpoint, required, train
from p2pz_ray.mini.wording import BEHINDS, LOOKS, OPENINGS, PLACES, POSTURES, TIMES, noun_phrase
from p2pz_ray.mini.world import COATS, KINDS, Scene, caption, sample_scene

BANK = 4000
"""Sentences of the template bank that are looked through for true ones, a noun phrase."""


def build_tokenizer(recipe: Recipe, out: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's form, learned from the world's captions and the sentence bank."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    folder = out / "tokenizer"
    if not (folder / "vocab.json").exists():
        rng = np.random.default_rng(recipe["seed"])
        texts = [caption(sample_scene(rng), rng) for _ in range(6000)]
        texts += [s for kind in KINDS for s in template_bank(kind, 1000)]
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        bpe.normalizer = normalizers.Lowercase()
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=recipe["text"]["vocabulary"], initial_alphabet=alphabet, end_of_word_suffix="</w>"
        )
        bpe.train_from_iterator(texts, trainer)
        merges = json.loads(bpe.to_str())["model"]["merges"]
        # CLIP's vocabulary: each byte alone, each byte at a word's end, what merging makes, two markers.
        words = alphabet + [a + "</w>" for a in alphabet] + ["".join(pair) for pair in merges]
        words += ["<|startoftext|>", "<|endoftext|>"]
        write_vocabulary(folder, {word: i for i, word in enumerate(dict.fromkeys(words))}, merges)
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=recipe["text"]["tokens"]
    )


def write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: list[list[str]]) -> None:
    """What CLIPTokenizer reads: every word's number, and the pairs that are merged, the first ones first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")


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
    """The tokenizer, and the text half of the trained CLIP."""
    tokenizer = build_tokenizer(recipe, out)
    clip = build_clip(recipe, tokenizer)
    required(out / "clip.pt", "clip", clip=clip)
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    return tokenizer, text.eval().requires_grad_(False)


@cache
def bank_for(word: str) -> list[str]:
    """Bank sentences for `word` that say nothing of the attributes a scene has: what they say must be true."""
    tables = (PLACES, BEHINDS, TIMES, POSTURES, LOOKS)
    spoken = " ".join([*COATS, *(phrase for table in tables for phrases in table.values() for phrase in phrases)])
    spoken += " " + " ".join(OPENINGS["sketch"] + OPENINGS["oil pastel"]) + " sits stands lies sleeps sleeping painting"
    plain = "a an the on in at by of with under front to from its us simple picture"
    attributes = set(spoken.split()) - set(plain.split())
    said = set(word.split())
    return [s for s in template_bank(word, BANK) if not attributes & (set(s.split()) - said)]


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    encoded = tokenizer(
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return encoded.input_ids


class Captions:
    """What is said of scenes in training: the world's captions, and sentences of the bank where they are true."""

    def __init__(self, scenes: list[Scene], settings: Recipe):
        self.scenes, self.settings = scenes, settings

    def __call__(self, index: torch.Tensor, rng: np.random.Generator) -> list[str]:
        return [self._of(self.scenes[i], rng) for i in index.tolist()]

    def _of(self, scene: Scene, rng: np.random.Generator) -> str:
        draw = rng.random() - self.settings.get("dropout", 0.0)
        if draw < 0:
            return ""
        if draw < self.settings["bank_share"]:
            sentences = bank_for(noun_phrase(scene, rng))
            return sentences[int(rng.integers(len(sentences)))]
        return caption(scene, rng)


def train_clip(recipe: Recipe, out: Path, start_from: Path | None = None) -> None:
    settings = recipe["clip"]
    torch.manual_seed(recipe["seed"])
    images, scenes = drawn(recipe, out)
    tokenizer = build_tokenizer(recipe, out)
    clip = build_clip(recipe, tokenizer)
    if start_from:
        clip.load_state_dict(CLIPModel.from_pretrained(start_from / "clip").float().state_dict())
    optimizer = torch.optim.AdamW(clip.parameters(), betas=(0.9, 0.98), weight_decay=5e-2)
    captions = Captions(scenes, settings)

    def prepare(start: int) -> Any:
        draws = batches(len(images), settings["batch"], recipe["seed"], start)

        def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            index = next(draws)
            tokens = tokens_of(tokenizer, captions(index, np.random.default_rng([recipe["seed"], step])))
            found = clip(input_ids=tokens, pixel_values=to_signal(images[index]))
            right = torch.arange(len(index))
            loss = (F.cross_entropy(found.logits_per_image, right) + F.cross_entropy(found.logits_per_text, right)) / 2
            hits = (found.logits_per_image.argmax(1) == right).float().mean().item()
            return loss, {"hits": hits}

        return loss_at

    train(settings, Checkpoint(out / "clip.pt", clip=clip, optimizer=optimizer), prepare, seed=recipe["seed"])
