"""Conditions as an edit makes them: what another scene is called, moved along a direction to the scene that is drawn.

Stable Diffusion has read so much that it takes a sum of mean sentences for what it means. A small UNet learns the
captions alone, the better the longer it trains, and then reads the noun's own state more than those after it; a
direction moves that one only half way, because its sentences have their nouns in other places.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTextModel

from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit, all_edits
from p2pz_ray.mini.scene import LARGE, SMALL, Scene, sample_scene
from p2pz_ray.mini.training.clip import Captions, build_tokenizer, tokens_of
from p2pz_ray.mini.training.data import Recipe
from p2pz_ray.mini.training.loop import processor
from p2pz_ray.mini.wording import caption

OFTENER = 3
"""How many times a far edit's share of the training the others have."""


class Sums:
    """For every scene an edit that ends in it, and what the scene was called before."""

    def __init__(self, recipe: Recipe, out: Path, scenes: list[Scene], text: CLIPTextModel):
        rng = np.random.default_rng(recipe["seed"])
        edits = all_edits()
        ending = [_ending_in(scene, edits, rng) for scene in scenes]
        before = [scene.with_(**edits[i].before) for scene, i in zip(scenes, ending, strict=True)]
        self.said = Captions(recipe, out, before, {**recipe["unet"], "dropout": 0.0})
        self.edit = torch.tensor(ending, device=processor())
        self.directions = directions(edits, recipe, out, text)
        self.text, self.share = text, recipe["unet"]["sums"]["share"]

    def __call__(self, index: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """(B,) numbers of scenes and (B, tokens) what each is called → (B, tokens, width), a share of them sums, by
        torch's own generator."""
        moved = torch.rand(len(index), 1, device=index.device) < self.share
        version = torch.randint(self.directions.shape[1], index.shape, device=index.device)
        states = self.text(torch.where(moved, self.said(index), captions)).last_hidden_state
        return states + moved[:, None] * self.directions[self.edit[index], version]


def _ending_in(scene: Scene, edits: list[WorldEdit], rng: np.random.Generator) -> int:
    """One of the edits, by its number, that could have made this scene of another."""
    possible = [
        i
        for i, edit in enumerate(edits)
        if all(getattr(scene, name) == value for name, value in {**edit.before, **edit.after}.items())
    ]
    weights = np.array([1 if _far(edits[i]) else OFTENER for i in possible])
    return int(rng.choice(possible, p=weights / weights.sum()))


def _far(edit: WorldEdit) -> bool:
    """Whether it is between animals of unlike build, or changes the season: what is asked for least."""
    kinds = {said["kind"] for said in (edit.before, edit.after) if "kind" in said}
    return "season" in edit.after or not (kinds <= set(SMALL) or kinds <= set(LARGE))


@torch.no_grad()
def directions(edits: list[WorldEdit], recipe: Recipe, out: Path, text: CLIPTextModel) -> torch.Tensor:
    """(edits, means, tokens, width): every edit's direction as often as the recipe's `means` says, each of other
    `sentences`: of the bank and of the world's own captions, by turns."""
    tokenizer, settings = build_tokenizer(recipe, out), recipe["unet"]["sums"]
    count = settings["sentences"]

    def mean(sentences: list[str]) -> torch.Tensor:
        return text(tokens_of(tokenizer, sentences).long().to(processor())).last_hidden_state.mean(0)

    @cache
    def of_bank(word: str, turn: int) -> torch.Tensor:
        return mean(template_bank(word, (turn + 1) * count)[-count:])

    @cache
    def of_world(fixed: tuple[tuple[str, object], ...], turn: int) -> torch.Tensor:
        # As in the bank, a sentence and the one that takes its place differ in nothing but what is fixed.
        rngs = [np.random.default_rng([turn, number]) for number in range(count)]
        return mean([caption(sample_scene(rng, **dict(fixed)), rng) for rng in rngs])  # type: ignore[arg-type]

    def direction(edit: WorldEdit, number: int) -> torch.Tensor:
        turn, world = divmod(number, 2)
        if world:
            before, after = ({**edit.before, **changed} for changed in ({}, edit.after))
            return of_world(tuple(after.items()), turn) - of_world(tuple(before.items()), turn)
        source, target = edit.words
        return of_bank(target, turn) - of_bank(source, turn)

    return torch.stack([torch.stack([direction(edit, i) for i in range(settings["means"])]) for edit in edits])
