"""The world's counterfactuals are exact, its scenes follow from the seed, and held-out scenes stay out."""

import numpy as np
import pytest

from p2pz_ray.errors import ConfigError
from p2pz_ray.mini.edit import WORDS, WorldEdit
from p2pz_ray.mini.wording import noun_phrase
from p2pz_ray.mini.world import CHOICES, COATS, GROUNDS, KINDS, SKIES, STYLES, Scene, caption, render, sample_scene

CHANGES = [{"kind": k} for k in KINDS if k != "cat"] + [{"glasses": True}, {"hat": True}, {"pose": "resting"}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_outside_both_masks_a_counterfactual_is_the_same_picture(change: dict) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        scene = sample_scene(rng, kind="cat", glasses=False, hat=False, pose="alert")
        (image, mask), (twin, twin_mask) = render(scene), render(scene.with_(**change))
        outside = ~(mask | twin_mask)
        assert outside.any()
        assert np.array_equal(image[outside], twin[outside])
        assert not np.array_equal(image, twin)


def test_a_seed_gives_the_same_scenes_captions_and_pixels() -> None:
    def draw() -> list:
        rng = np.random.default_rng(11)
        scenes = [sample_scene(rng) for _ in range(5)]
        return [(s, caption(s, rng), render(s)[0].tobytes()) for s in scenes]

    assert draw() == draw()
    scene = sample_scene(np.random.default_rng(1))
    assert Scene.from_json(scene.to_json()) == scene


def test_a_tenth_or_more_of_the_combinations_is_held_out_and_never_sampled_for_training() -> None:
    all_scenes = [Scene(coat=c, ground=g, sky=s) for c in COATS for g in GROUNDS for s in SKIES]
    share = sum(s.held_out for s in all_scenes) / len(all_scenes)
    assert 0.1 <= share <= 0.3
    rng = np.random.default_rng(2)
    assert not any(sample_scene(rng, held_out=False).held_out for _ in range(300))
    assert all(sample_scene(rng, held_out=True, kind="dog").held_out for _ in range(50))


@pytest.mark.parametrize("name", [name for name in CHOICES if name != "coat"])
def test_every_attribute_changes_the_picture(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(6):
        scene = sample_scene(rng)
        seen = {render(scene.with_(**{name: option}))[0].tobytes() for option in CHOICES[name]}
        assert len(seen) == len(CHOICES[name])


def test_a_scene_refuses_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"a scene's kind is one of cat, dog, fox.* not 'cow'"):
        Scene(kind="cow")
    for text in ('{"kind": "cow"}', '{"wheels": 4}', "[1]", "nothing"):
        with pytest.raises(ValueError, match=r"."):
            Scene.from_json(text)


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("cat2dog", {"kind": "cat"}, {"kind": "dog"}, ("cat", "dog")),
        ("cat2glasses", {"kind": "cat", "glasses": False}, {"glasses": True}, ("cat", "cat with glasses")),
        ("sketch2oil", {"style": "sketch"}, {"style": "oil pastel"}, ("sketch of a cat", "oil pastel of a cat")),
        ("fox2winter", {"kind": "fox", "season": "summer"}, {"season": "winter"}, ("fox in summer", "fox in winter")),
    ],
)
def test_an_edit_is_read_from_its_name(name: str, before: dict, after: dict, words: tuple) -> None:
    edit = WorldEdit.parse(name)
    assert (edit.before, edit.after, edit.words) == (before, after, words)
    scene = sample_scene(np.random.default_rng(6), **before)
    assert edit.fits(scene)
    assert not edit.fits(edit.truth(scene))
    assert edit.truth(scene) == scene.with_(**after)
    assert edit.shown(after | {"pose": "alert"})
    assert not edit.shown(before | after | {next(iter(after)): None})


@pytest.mark.parametrize("name", ["cat2cow", "cat2cat", "cat", "", "glasses2cat", "cat2summer", "sketch2dog", "2dog"])
def test_an_edit_that_the_world_cannot_draw_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="SOURCE2TARGET"):
        WorldEdit.parse(name)
    assert not any(c.isdigit() for word in WORDS for c in word)


def test_captions_name_the_animal_and_only_true_attributes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        assert scene.kind in text.split()
        assert not any(k in text.split() for k in KINDS if k != scene.kind)
        assert ("glasses" in text) == scene.glasses
        assert ("hat" in text.split()) == scene.hat
        assert [style for style in STYLES if style in text] in ([], [scene.style])
        assert set(noun_phrase(scene, rng).split()) & set(KINDS) == {scene.kind}
        named = [coat for coat in ("black", "brown", "ginger", "cream") if coat in text.split()]
        assert named in ([], [scene.coat])


def test_a_larger_picture_is_the_same_scene() -> None:
    scene = sample_scene(np.random.default_rng(4))
    small, mask = render(scene, 64)
    large, large_mask = render(scene, 128)
    assert large.shape == (128, 128, 3)
    halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 4
    assert abs(large_mask.mean() - mask.mean()) < 0.03
