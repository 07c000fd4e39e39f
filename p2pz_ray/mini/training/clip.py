"""A small CLIP, contrastive over pictures and captions: its text half conditions the UNet, as in Stable Diffusion."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.training.data import CHUNK, Recipe, batches, drawn, in_parallel, to_signal
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, on_gpu, processor, required, train
from p2pz_ray.mini.training.muon import optimizers
from p2pz_ray.mini.wording import BEHINDS, LOOKS, OPENINGS, PLACES, POSTURES, TIMES, noun_phrase
from p2pz_ray.mini.world import COATS, KINDS, Scene, caption, sample_scene

BANK = 4000
"""Sentences of the template bank that are looked through for true ones."""
WAYS = 12
"""Captions that a scene has in training."""


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
    return load_tokenizer(folder, recipe["text"]["tokens"])


@cache
def load_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


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
    stand_in = "owl" if word[0] in "aeiou" else "cat"  # with the article that `word` has
    return [re.sub(rf"\b{stand_in}\b", word, sentence) for sentence in _plain_sentences(stand_in)]


@cache
def _plain_sentences(word: str) -> list[str]:
    tables = (PLACES, BEHINDS, TIMES, POSTURES, LOOKS)
    spoken = " ".join([*COATS, *(phrase for table in tables for phrases in table.values() for phrase in phrases)])
    spoken += " " + " ".join(OPENINGS["sketch"] + OPENINGS["oil pastel"]) + " sits stands lies sleeps sleeping painting"
    plain = "a an the on in at by of with under front to from its us simple picture"
    attributes = set(spoken.split()) - set(plain.split())
    return [sentence for sentence in template_bank(word, BANK) if not attributes & set(sentence.split())]


@dataclass(frozen=True)
class _Telling:
    """Says of scenes what training may: the world's captions, and sentences of the bank where they are true."""

    tokenizer: Path
    length: int
    bank_share: float

    def __call__(self, piece: tuple[int, list[Scene]]) -> np.ndarray:
        seed, scenes = piece
        rng = np.random.default_rng(seed)
        texts = [self._of(scene, rng) for scene in scenes for _ in range(WAYS)]
        return tokens_of(load_tokenizer(self.tokenizer, self.length), texts).view(len(scenes), WAYS, -1).numpy()

    def _of(self, scene: Scene, rng: np.random.Generator) -> str:
        if rng.random() < self.bank_share:
            sentences = bank_for(noun_phrase(scene, rng))
            return sentences[int(rng.integers(len(sentences)))]
        return caption(scene, rng)


class Captions:
    """Every scene said in `WAYS` ways, as tokens, and one of them drawn for each picture of a batch.

    Of them `dropout`, a share, is left empty: what classifier-free guidance needs.
    """

    def __init__(self, recipe: Recipe, out: Path, scenes: list[Scene], settings: Recipe):
        tokenizer = build_tokenizer(recipe, out)
        telling = _Telling(out / "tokenizer", recipe["text"]["tokens"], settings["bank_share"])
        pieces = [(recipe["seed"] + i, scenes[i : i + CHUNK]) for i in range(0, len(scenes), CHUNK)]
        self.tokens = torch.from_numpy(np.concatenate(in_parallel(telling, pieces))).to(processor())
        self.empty = tokens_of(tokenizer, [""]).to(processor())
        self.dropout = settings.get("dropout", 0.0)

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) numbers of scenes → (B, tokens), by torch's own generator."""
        said = self.tokens[index, torch.randint(WAYS, index.shape, device=index.device)].long()
        return torch.where(torch.rand(len(index), 1, device=index.device) < self.dropout, self.empty, said)


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    encoded = tokenizer(
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return encoded.input_ids.to(torch.int32)


def train_clip(recipe: Recipe, out: Path, start_from: Path | None = None) -> None:
    settings = recipe["clip"]
    images, scenes = drawn(recipe, out)
    captions = Captions(recipe, out, scenes, settings)
    images = images.to(processor())
    torch.manual_seed(recipe["seed"])
    clip = build_clip(recipe, build_tokenizer(recipe, out))
    if start_from:
        clip.load_state_dict(CLIPModel.from_pretrained(start_from / "clip").float().state_dict())
    clip.to(processor())
    moving = optimizers(clip.named_parameters(), decay=5e-2)
    right = torch.arange(settings["batch"], device=processor())

    def prepare(start: int) -> Any:
        draws = with_lookalikes(scenes, settings["batch"], recipe["seed"], start)

        def loss_at(step: int) -> tuple[torch.Tensor, Numbers]:
            index = next(draws)
            found = clip(input_ids=captions(index), pixel_values=to_signal(images[index]))
            loss = (F.cross_entropy(found.logits_per_image, right) + F.cross_entropy(found.logits_per_text, right)) / 2
            hits = (found.logits_per_image.argmax(1) == right).float().mean()
            return loss, {"hits": hits}

        return loss_at

    train(settings, Checkpoint(out / "clip.pt", clip=clip, **moving), prepare, seed=recipe["seed"], bfloat16=on_gpu())


def with_lookalikes(scenes: Sequence[Scene], batch: int, seed: int, start: int) -> Iterator[torch.Tensor]:
    """As `batches`, but every other batch is of scenes with one animal, coat and ground.

    In a batch of any scenes these and the sky tell the pictures apart, and both halves learn little else; among
    lookalikes they have to see the pose, the view and the hat.
    """
    alike = defaultdict(list)
    for number, scene in enumerate(scenes):
        alike[scene.kind, scene.coat, scene.ground].append(number)
    groups = [torch.tensor(numbers) for numbers in alike.values() if len(numbers) >= batch]
    for step, index in enumerate(batches(len(scenes), batch, seed, start), start):
        if step % 2 and groups:
            generator = torch.Generator().manual_seed(seed + step)
            group = groups[int(torch.randint(len(groups), (), generator=generator))]
            index = group[torch.randperm(len(group), generator=generator)[:batch]].to(processor())
        yield index
