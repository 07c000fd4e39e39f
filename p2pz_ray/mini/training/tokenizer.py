"""The tokenizer: byte pairs in CLIP's form, learned from the world's captions and the sentence bank."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTokenizer

from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.training.data import Recipe
from p2pz_ray.mini.world import KINDS, caption, sample_scene


def build_tokenizer(recipe: Recipe, out: Path) -> CLIPTokenizer:
    """The tokenizer in `out`/tokenizer, learned first if there is none."""
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
        # CLIP's vocabulary: each byte, each byte at the end of a word, the merged pairs, two special tokens.
        words = alphabet + [a + "</w>" for a in alphabet] + ["".join(pair) for pair in merges]
        words += ["<|startoftext|>", "<|endoftext|>"]
        write_vocabulary(folder, {word: i for i, word in enumerate(dict.fromkeys(words))}, merges)
    return load_tokenizer(folder, recipe["text"]["tokens"])


@cache
def load_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: list[list[str]]) -> None:
    """Write CLIPTokenizer's files: the number of every token, and the merges in order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(n, L) int32: each text between start and end tokens, padded with end tokens or cut to L."""
    encoded = tokenizer(
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return encoded.input_ids.to(torch.int32)
