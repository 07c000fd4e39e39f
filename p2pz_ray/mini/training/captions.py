"""Captions of the training scenes, as tokens. No training ever sees an edit."""

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
"""Sentences of the template bank, of which those that could be false of a scene are dropped."""


class Captions:
    """Several captions per scene, as tokens; for each picture in a batch one of them is drawn at random.

    Args:
        scenes: each gets `recipe["captions"]["count"]` captions, of which a share `bank` are sentences of the template
            bank. They are made once and kept in `out`/captions.pt.
        dropout: the share of captions replaced by an empty one, as classifier-free guidance needs.
    """

    def __init__(self, recipe: Recipe, out: Path, scenes: list[Scene], dropout: float = 0.0):
        tokenizer = build_tokenizer(recipe, out)
        self.tokens = _captioned(recipe, out, scenes).to(processor())
        self.empty = tokens_of(tokenizer, [""]).long().to(processor())
        self.end = tokenizer.eos_token_id
        self.dropout = dropout

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) indices of scenes → (B, L) tokens, drawn with torch's global generator."""
        way = torch.randint(self.tokens.shape[1], index.shape, device=index.device)
        said = self.tokens[index, way].long()
        return torch.where(torch.rand(len(index), 1, device=index.device) < self.dropout, self.empty, said)

    def ends(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens → (B,) the position of each caption's first end-of-text token."""
        return (tokens == self.end).int().argmax(1)


def _captioned(recipe: Recipe, out: Path, scenes: list[Scene]) -> torch.Tensor:
    """(scenes, captions per scene, L) int16."""
    file, asked, length = out / "captions.pt", recipe["captions"], recipe["text"]["tokens"]
    build_tokenizer(recipe, out)
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved.shape == (len(scenes), asked["count"], length):
            return saved
    work = _Captioning(out / "tokenizer", length, asked["count"], asked["bank"])
    pieces = [(recipe["seed"] + i, scenes[i : i + CHUNK]) for i in range(0, len(scenes), CHUNK)]
    tokens = torch.from_numpy(np.concatenate(in_parallel(work, pieces)))
    torch.save(tokens, file)
    return tokens


@dataclass(frozen=True)
class _Captioning:
    """Captions one unit of scenes: the same in whichever process it runs."""

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
    """Bank sentences for `word` that mention none of a scene's attributes, since that could be false."""
    stand_in = "owl" if word[0] in "aeiou" else "cat"  # takes the same article as `word`
    return [re.sub(rf"\b{stand_in}\b", word, sentence) for sentence in _plain_sentences(stand_in)]


@cache
def _plain_sentences(word: str) -> list[str]:
    tables = (PLACES, BEHINDS, TIMES, POSTURES, LOOKS)
    spoken = " ".join([*COATS, *(phrase for table in tables for phrases in table.values() for phrase in phrases)])
    spoken += " " + " ".join(OPENINGS["sketch"] + OPENINGS["oil pastel"]) + " sits stands lies sleeps sleeping painting"
    plain = "a an the on in at by of with under front to from its us simple picture"
    attributes = set(spoken.split()) - set(plain.split())
    return [sentence for sentence in template_bank(word, BANK) if not attributes & set(sentence.split())]
