"""What a training is told of its scenes: captions that are true of them, as tokens. It never sees an edit."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.training.data import CHUNK, Recipe, in_parallel
from p2pz_ray.mini.training.loop import processor
from p2pz_ray.mini.training.tokenizer import build_tokenizer, load_tokenizer, tokens_of
from p2pz_ray.mini.wording import BEHINDS, LOOKS, OPENINGS, PLACES, POSTURES, TIMES, noun_phrase
from p2pz_ray.mini.world import COATS, Scene, caption

BANK = 4000
"""Sentences of the template bank that are looked through for true ones."""


class Captions:
    """Several captions of every scene, as tokens; for each picture of a batch one of them is drawn.

    Args:
        scenes: what is captioned, `recipe["captions"]["count"]` times each, a share `bank` of them in sentences of the
            template bank. They are made once and kept in `out`/captions.pt.
        dropout: the share of captions left empty, which classifier-free guidance needs.
    """

    def __init__(self, recipe: Recipe, out: Path, scenes: list[Scene], dropout: float = 0.0):
        tokenizer = build_tokenizer(recipe, out)
        self.tokens = _told(recipe, out, scenes).to(processor())
        self.empty = tokens_of(tokenizer, [""]).long().to(processor())
        self.end = tokenizer.eos_token_id
        self.dropout = dropout

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) numbers of scenes → (B, L) tokens, by torch's own generator."""
        way = torch.randint(self.tokens.shape[1], index.shape, device=index.device)
        said = self.tokens[index, way].long()
        return torch.where(torch.rand(len(index), 1, device=index.device) < self.dropout, self.empty, said)

    def ends(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens → (B,) where each caption's words end: at its first end-of-text marker."""
        return (tokens == self.end).int().argmax(1)


def _told(recipe: Recipe, out: Path, scenes: list[Scene]) -> torch.Tensor:
    """(scenes, captions of each, L) int16."""
    file, asked, length = out / "captions.pt", recipe["captions"], recipe["text"]["tokens"]
    build_tokenizer(recipe, out)
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved.shape == (len(scenes), asked["count"], length):
            return saved
    telling = _Telling(out / "tokenizer", length, asked["count"], asked["bank"])
    pieces = [(recipe["seed"] + i, scenes[i : i + CHUNK]) for i in range(0, len(scenes), CHUNK)]
    tokens = torch.from_numpy(np.concatenate(in_parallel(telling, pieces)))
    torch.save(tokens, file)
    return tokens


@dataclass(frozen=True)
class _Telling:
    """Captions a piece of the scenes, the same whichever process does."""

    tokenizer: Path
    length: int
    count: int
    bank: float

    def __call__(self, piece: tuple[int, list[Scene]]) -> np.ndarray:
        seed, scenes = piece
        rng = np.random.default_rng(seed)
        texts = [self._of(scene, rng) for scene in scenes for _ in range(self.count)]
        tokens = tokens_of(load_tokenizer(self.tokenizer, self.length), texts)
        return tokens.view(len(scenes), self.count, -1).numpy().astype(np.int16)

    def _of(self, scene: Scene, rng: np.random.Generator) -> str:
        if rng.random() < self.bank:
            sentences = bank_for(noun_phrase(scene, rng))
            return sentences[int(rng.integers(len(sentences)))]
        return caption(scene, rng)


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
