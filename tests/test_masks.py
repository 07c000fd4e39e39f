"""A mask confines the edit, and directions compose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from p2pz_ray import Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.direction import EditDirection
from p2pz_ray.editing.paper import guided
from p2pz_ray.editing.schedule import Schedule, ddim_step, extrapolated
from p2pz_ray.errors import ConfigError


@pytest.fixture(scope="module")
def editor(tiny_model: Path) -> Editor:
    return Editor.from_pretrained(tiny_model, inversion=InversionSettings(steps=4))


def pictures(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def test_outside_its_mask_a_picture_is_the_source_bit_for_bit_and_inside_it_is_edited(editor: Editor) -> None:
    images = pictures()
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 10:40, 5:33] = True
    inversion = editor.invert(images, ["a cat"] * 2, [1, 2])
    directions = [editor.direction(["a cat"], [f"a {word}"]) for word in ("dog", "horse")]
    edited = editor.edit(inversion, directions, masks=masks)
    for k in range(2):
        assert np.array_equal(edited[0, k][~masks[0]], images[0][~masks[0]])
        assert np.array_equal(edited[1, k], images[1])
        assert not np.array_equal(edited[0, k][masks[0]], images[0][masks[0]])


def test_a_mask_of_everything_is_no_mask(editor: Editor) -> None:
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    everywhere = np.ones((2, 64, 64), bool)
    assert np.array_equal(editor.edit(inversion, [direction], masks=everywhere), editor.edit(inversion, [direction]))


def test_a_soft_mask_lies_between_the_source_and_the_edit(editor: Editor) -> None:
    """Of four steps a share changes: 0 is the source bit for bit, 1 the unmasked edit, and more changes more."""
    images = pictures()
    inversion = editor.invert(images, ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    made = {share: editor.edit(inversion, [direction], masks=soft(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert np.array_equal(made[0.0][:, 0], images)
    assert np.array_equal(made[1.0], editor.edit(inversion, [direction]))
    reconstructed = editor.model.decode(inversion.trajectory[0])[0].astype(int)
    moved = [np.abs(made[share][:, 0] - reconstructed).mean() for share in (0.25, 0.5, 0.75, 1.0)]
    assert 0 < moved[0] < moved[1] < moved[2] < moved[3]


def soft(share: float) -> np.ndarray:
    return np.full((2, 64, 64), share, np.float32)


def test_a_feathered_edge_mixes_inside_the_mask_alone(editor: Editor) -> None:
    images = pictures()
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 16:48, 16:48] = True
    inversion = editor.invert(images, ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    hard = editor.edit(inversion, [direction], masks=masks)[:, 0].astype(int)
    usual, editor.guidance = editor.guidance, GuidanceSettings(feather=3)
    feathered = editor.edit(inversion, [direction], masks=masks)[:, 0].astype(int)
    editor.guidance = usual
    assert np.array_equal(feathered[~masks], images[~masks])
    assert np.array_equal(feathered[:, 19:45, 19:45], hard[:, 19:45, 19:45])
    edge, source = feathered[:, 16, 20:44], images[:, 16, 20:44].astype(int)
    assert np.abs(edge - (source + (hard[:, 16, 20:44] - source) / 4)).max() <= 0.5


def test_a_window_of_nothing_is_without_what_it_windows_and_half_of_it_is_neither(editor: Editor) -> None:
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    half = np.zeros((2, 64, 64), bool)
    half[:, :32] = True

    def edited(masks: np.ndarray | None = None, by: EditDirection = direction, **settings: Any) -> torch.Tensor:
        usual, editor.guidance = editor.guidance, GuidanceSettings(**settings)
        made = editor.edit_latents(inversion, [by], masks=masks)
        editor.guidance = usual
        return made

    assert torch.equal(edited(guided=0.0), edited(lambda_xa=0.0))
    assert torch.equal(edited(directed=[1.0, 1.0]), edited(by=direction * 0.0))
    assert torch.equal(edited(half, confined=[0.0, 0.0]), edited())
    whole = {"guided": edited(), "directed": edited(), "confined": edited(half)}
    none = {"guided": edited(lambda_xa=0.0), "directed": edited(by=direction * 0.0), "confined": edited()}
    for name, made in whole.items():
        late = edited(half if name == "confined" else None, **{name: [0.5, 1.0]})
        assert not torch.equal(late, made)
        assert not torch.equal(late, none[name])


def test_masks_that_do_not_fit_are_named(editor: Editor) -> None:
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    with pytest.raises(ValueError, match=r"masks are bool \(2, 32, 64\)"):
        editor.edit(inversion, [direction], masks=np.ones((2, 32, 64), bool))
    with pytest.raises(ValueError, match=r"outside 0 … 1"):
        editor.edit(inversion, [direction], masks=soft(1.5))


def test_a_picture_need_not_be_square(editor: Editor) -> None:
    images = pictures(64, 96)
    inversion = editor.invert(images, ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    together = editor.edit(inversion, [direction])
    assert together.shape == (2, 1, 64, 96, 3)
    alone = editor.edit(editor.invert(images[1:], ["a cat"], [2]), [direction])
    assert np.abs(alone[0].astype(int) - together[1].astype(int)).max() <= 1


def test_directions_add_and_scale_and_those_of_two_models_do_not(editor: Editor) -> None:
    dog, snow = editor.direction(["a cat"], ["a dog"]), editor.direction(["a cat"], ["a cat in snow"])
    both = dog + snow * 0.5
    torch.testing.assert_close(both.embedding, dog.embedding + 0.5 * snow.embedding)
    both.check(editor.model.text, "both")
    with pytest.raises(ConfigError, match="two models"):
        dog + EditDirection(dog.embedding, {"text_encoder": "another"})
    assert EditDirection.from_bytes(both.to_bytes(), "x").provenance == both.provenance


def test_a_pass_ends_at_its_last_compared_layer_with_the_same_gradient(editor: Editor) -> None:
    """The stop changes no number: what lies beyond the last compared map takes no part in the loss."""
    ended: list[bool] = []
    handle = editor.model.unet.conv_out.register_forward_hook(lambda *_: ended.append(True))
    x, c = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), editor.model.embed(["a cat"])

    def gradient(whole: bool) -> torch.Tensor:
        with torch.no_grad(), editor.maps.record(whole=whole):
            editor.model.predict(x + 0.1, 401, c, 0.5)
        leaf = x.clone().requires_grad_()
        with editor.maps.compare(whole):
            editor.model.predict(leaf, 401, c, 0.5)
        assert editor.maps.loss is not None
        return torch.autograd.grad(editor.maps.loss.sum(), leaf)[0]

    short = gradient(False)
    assert not ended
    whole = gradient(True)
    handle.remove()
    assert len(ended) == 2
    assert torch.equal(short, whole)
    assert short.abs().max() > 0


def test_only_chosen_layers_are_compared_and_unknown_ones_are_named(editor: Editor) -> None:
    editor.maps.choose(["mid_block"])
    x, c = torch.zeros(1, 4, 16, 16), editor.model.embed(["a cat"])
    with torch.no_grad(), editor.maps.record():
        editor.model.predict(x, 401, c, 0.5)
    assert editor.maps.recorded
    assert all(layer.startswith("mid_block") for layer in editor.maps.recorded)
    editor.maps.clear()
    with pytest.raises(ConfigError, match=r"'attic'.*mid_block"):
        editor.maps.choose(["attic"])
    editor.maps.choose(None)


@pytest.mark.parametrize(
    "settings",
    [
        GuidanceSettings(guided=0.5),
        GuidanceSettings(guided_every=2),
        GuidanceSettings(negative_every=2),
        GuidanceSettings(order=2),
        GuidanceSettings(reuse=True),
        GuidanceSettings(layers=("mid_block",)),
    ],
)
def test_every_shortcut_changes_the_edit_and_stays_finite(editor: Editor, settings: GuidanceSettings) -> None:
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    plain = editor.edit_latents(inversion, [direction])
    usual, editor.guidance = editor.guidance, settings
    short = editor.edit_latents(inversion, [direction])
    editor.guidance = usual
    assert torch.isfinite(short).all()
    assert not torch.equal(short, plain)


def test_what_is_reused_is_the_compared_passs_own_prediction(editor: Editor) -> None:
    """Where maps move nothing, reusing changes nothing."""
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    usual, made = editor.guidance, []
    for reuse in (False, True):
        editor.guidance = GuidanceSettings(lambda_xa=1e-12, reuse=reuse)
        made.append(editor.edit_latents(inversion, [direction]))
    editor.guidance = usual
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-4)


def test_what_is_held_between_steps_is_not_asked_for_again(editor: Editor) -> None:
    """Of four steps, pictures that the UNet sees: the reference and the compared pass, then both halves of guidance."""
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    usual, asked = editor.guidance, 0

    def count(_: torch.nn.Module, args: tuple) -> None:
        nonlocal asked
        asked += len(args[0])

    handle = editor.model.unet.register_forward_pre_hook(count)
    counted = {}
    for every in (1, 2, 3):
        asked, editor.guidance = 0, GuidanceSettings(guided_every=every, negative_every=every)
        editor.edit_latents(inversion, [direction])
        counted[every] = asked // 2
    handle.remove()
    editor.guidance = usual
    assert counted == {1: 4 * 2 + 4 * 2, 2: 2 * 2 + 4 + 2, 3: 2 * 2 + 4 + 2}


def test_guidance_held_is_the_difference_of_an_earlier_step(editor: Editor) -> None:
    x, c = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), editor.model.embed(["a dog"])
    c_neg = editor.model.embed(["a cat"])
    with torch.no_grad():
        eps, eps_neg = (editor.model.predict(x, 401, each, 0.5) for each in (c, c_neg))
        found, towards = guided(editor.model, x, 401, c_neg, c, 3.0, 0.5)
        again, _ = guided(editor.model, x, 401, c_neg, c, 3.0, 0.5, towards=towards)
    torch.testing.assert_close(found, eps_neg + 3 * (eps - eps_neg), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-5)


def test_extrapolated_steps_are_of_second_order() -> None:
    """On dx̄/dσ = σ² from ā near 0 to the clean end, halving the step divides the error by about four."""

    def error(steps: int) -> float:
        sigmas = torch.linspace(2.0, 0.0, steps + 1, dtype=torch.float64)
        levels = (1 / (1 + sigmas.square())).tolist()
        x = torch.zeros(1, dtype=torch.float64)
        before = None
        for i in range(steps):
            eps = sigmas[i : i + 1].square()
            step = eps if before is None else extrapolated(eps, before, levels[i - 1], levels[i], levels[i + 1])
            x, before = ddim_step(x, step, levels[i], levels[i + 1]), eps
        start = 0.0
        return abs(float(x) / levels[-1] ** 0.5 - (start - 8 / 3))

    assert 3.0 < error(32) / error(64) < 5.0


@pytest.mark.slow
def test_a_schedule_that_ends_in_pure_noise_still_finds_what_a_v_prediction_says(tiny_v_model: Path) -> None:
    editor = Editor.from_pretrained(tiny_v_model)
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False
    )
    assert float(scheduler.alphas_cumprod[-1]) == 0
    darkest = Schedule.of(scheduler, 10).levels[-1]
    draw = torch.Generator().manual_seed(1)
    x, v = (torch.randn(1, 4, 8, 8, generator=draw) for _ in range(2))
    # At ā = 0 the picture is -v (Salimans and Ho 2022).
    clean = ddim_step(x, editor.model.epsilon(v, x, darkest), darkest, 1.0)
    torch.testing.assert_close(clean, -v, rtol=0, atol=3e-3)
    editor.model.scheduler = scheduler
    inversion = editor.invert(pictures(), ["a cat"] * 2, [1, 2])
    assert torch.isfinite(editor.edit_latents(inversion, [editor.direction(["a cat"], ["a dog"])])).all()
