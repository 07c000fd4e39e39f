"""The UNet is trained on what an edit tells it: another scene's caption, moved along a direction to the scene drawn."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import CLIPTextModel

from p2pz_ray import EditDirection
from p2pz_ray.editing.text import TextEncoder
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import all_edits
from p2pz_ray.mini.figures import TASKS
from p2pz_ray.mini.train import RECIPE
from p2pz_ray.mini.training.clip import build_clip, build_tokenizer
from p2pz_ray.mini.training.sums import Sums, directions
from p2pz_ray.mini.world import sample_scene

EDITS = all_edits()


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    small = yaml.safe_load(RECIPE.read_text())
    small["text"] |= {"width": 32, "layers": 1, "heads": 2}
    small["unet"]["sums"] |= {"means": 2, "sentences": 6}
    return small


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sums")


@pytest.fixture(scope="module")
def text(recipe: dict[str, Any], out: Path) -> CLIPTextModel:
    torch.manual_seed(0)
    return build_clip(recipe, build_tokenizer(recipe, out)).text_model.eval()


def test_every_edit_that_is_shown_can_be_trained_on() -> None:
    assert set(TASKS) <= {edit.name for edit in EDITS}


def test_a_scene_is_seldom_made_of_an_animal_of_unlike_build(
    recipe: dict[str, Any], out: Path, text: CLIPTextModel
) -> None:
    rng = np.random.default_rng(4)
    dogs = [sample_scene(rng, kind="dog", style="photo", glasses=False, hat=False) for _ in range(600)]
    made = Counter(EDITS[number].name for number in Sums(recipe, out, dogs, text).edit.tolist())
    assert made["cat2dog"] > 2 * made["horse2dog"] > 0


def test_a_direction_is_what_an_editor_makes_of_the_same_sentences(
    recipe: dict[str, Any], out: Path, text: CLIPTextModel
) -> None:
    tokenizer = build_tokenizer(recipe, out)
    found = directions(EDITS, recipe, out, text)
    assert found.shape == (len(EDITS), 2, recipe["text"]["tokens"], 32)
    for edit, both in zip(EDITS, found, strict=True):
        if edit.name not in TASKS:
            continue
        banks = [template_bank(word, 6) for word in edit.words]
        right = EditDirection.from_sentences(TextEncoder([tokenizer], [text]), *banks).embedding
        torch.testing.assert_close(both[0], right, atol=1e-5, rtol=1e-4)
        likeness = torch.cosine_similarity(both[0].flatten(), both[1].flatten(), dim=0)
        assert likeness > 0.2, edit.name  # the world's own captions say the same in other words


def test_a_sum_is_the_caption_before_and_the_direction_from_there(
    recipe: dict[str, Any], out: Path, text: CLIPTextModel
) -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in range(40)]
    sums = Sums(recipe, out, scenes, text)
    index = torch.arange(len(scenes))
    captions = sums.said.tokens[:, 0].flip(0).long()  # of other scenes
    torch.manual_seed(1)
    with torch.no_grad():
        sums.share = 0.0
        torch.testing.assert_close(sums(index, captions), text(captions).last_hidden_state)
        sums.share = 1.0
        made = sums(index, captions)
        possible = text(sums.said.tokens.flatten(0, 1).long()).last_hidden_state.unflatten(
            0, sums.said.tokens.shape[:2]
        )
    left = made[:, None, None] - possible[:, :, None] - sums.directions[sums.edit][:, None]
    assert left.abs().amax((3, 4)).flatten(1).min(dim=1).values.max() < 1e-4
    for scene, number in zip(scenes, sums.edit.tolist(), strict=True):
        edit = EDITS[number]
        assert edit.truth(scene.with_(**edit.before)) == scene
        assert not edit.fits(scene)
