"""The world's counterfactuals are exact, its scenes follow from the seed, and held-out scenes stay out."""

import numpy as np
import pytest

from p2pz_ray.mini.world import COATS, GROUNDS, KINDS, SKIES, Scene, caption, render, sample_scene


@pytest.mark.parametrize("other", [k for k in KINDS if k != "cat"])
def test_outside_both_masks_a_counterfactual_is_the_same_picture(other: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        scene = sample_scene(rng, kind="cat")
        (image, mask), (twin, twin_mask) = render(scene), render(scene.with_(kind=other))
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


def test_captions_name_the_animal_and_only_true_attributes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        assert scene.kind in text.split()
        assert not any(k in text.split() for k in KINDS if k != scene.kind)
        assert ("glasses" in text) <= scene.glasses
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
