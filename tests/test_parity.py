"""In the official form the editor computes what diffusers' deprecated pipeline computes, for many images at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from p2pz_ray import EditDirection, Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.inversion import Inversion, invert
from p2pz_ray.errors import ConfigError
from p2pz_ray.lab.rivals import diffusers_pipeline
from p2pz_ray.mini import MODEL

STEPS, CFG, AMOUNT = 5, 5.0, 0.15  # of a number that 1000 is no multiple of, the pipeline takes "trailing" steps askew
CAPTIONS = [f"a photo of a cat {where}" for where in ("on the grass", "in the snow", "at home", "", "at 5", "in a box")]
WORDS = ("dog", "horse", "fox")


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture(scope="module", params=["epsilon", "v_prediction", "mini"])
def folder(request: pytest.FixtureRequest) -> Path:
    fixtures = {"epsilon": "tiny_model", "v_prediction": "tiny_v_model"}
    return MODEL if request.param == "mini" else request.getfixturevalue(fixtures[request.param])


@pytest.fixture(scope="module")
def editor(folder: Path) -> Editor:
    return Editor.from_pretrained(
        folder,
        inversion=InversionSettings(steps=STEPS, regularization="none"),
        guidance=GuidanceSettings(form="official", lambda_xa=AMOUNT, cfg=CFG),
    )


@pytest.fixture(scope="module")
def directions(editor: Editor) -> list[EditDirection]:
    return [
        editor.direction(["a cat in the snow", "the cat sleeps"], [f"a {word} in the snow", f"the {word} sleeps"])
        for word in WORDS
    ]


def clean(count: int) -> Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(4))


def by_pipeline(folder: Path, inversion: Inversion, i: int, direction: EditDirection, negative: str) -> Tensor:
    """One image's latents under one direction."""
    made = diffusers_pipeline(folder, "cpu")(
        CAPTIONS[i],
        source_embeds=torch.zeros_like(direction.embedding)[None],
        target_embeds=direction.embedding[None],
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        negative_prompt=CAPTIONS[i] if negative == "caption" else negative,
        latents=inversion.trajectory[-1][i : i + 1],
        cross_attention_guidance_amount=AMOUNT,
        output_type="latent",
    )
    return made.images


@pytest.mark.parametrize("regularization", ["none", "official"])
def test_the_inverted_noise_is_the_pipelines(folder: Path, editor: Editor, regularization: str) -> None:
    """With regularization too, each image with the shifts of its own seed, as the pipeline draws them."""
    rounds = 0 if regularization == "none" else 2
    settings = InversionSettings(steps=STEPS, regularization=regularization, reg_steps=rounds)  # type: ignore[arg-type]
    ours = invert(editor.model, clean(2), CAPTIONS[:2], [7, 8], settings)
    pipeline = diffusers_pipeline(folder, "cpu")
    for i, seed in enumerate((7, 8)):
        theirs = pipeline.invert(
            CAPTIONS[i],
            image=clean(2)[i : i + 1],
            num_inference_steps=STEPS,
            num_reg_steps=rounds,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        assert relative_error(ours.trajectory[-1][i : i + 1], theirs.latents) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("negative", ["caption", ""])
def test_the_edited_latent_is_the_pipelines(
    folder: Path, editor: Editor, directions: list[EditDirection], negative: str
) -> None:
    inversion = invert(editor.model, clean(2), CAPTIONS[:2], [0, 1], editor.inversion)
    editor.guidance = GuidanceSettings(form="official", lambda_xa=AMOUNT, cfg=CFG, negative=negative)
    ours = editor.edit_latents(inversion, directions[:1])
    for i in range(2):
        assert relative_error(ours[i], by_pipeline(folder, inversion, i, directions[0], negative)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("regularization", ["none", "official"])
def test_a_batch_of_six_under_three_directions_is_the_pipelines_one_by_one(
    tiny_model: Path, regularization: str
) -> None:
    editor = Editor.from_pretrained(
        tiny_model,
        parity="official",
        inversion=InversionSettings(steps=STEPS, regularization=regularization),  # type: ignore[arg-type]
        guidance=GuidanceSettings(lambda_xa=AMOUNT, cfg=CFG),
    )
    directions = [editor.direction(["a cat", "the cat"], [f"a {word}", f"the {word}"]) for word in WORDS]
    inversion = invert(editor.model, clean(6), CAPTIONS, list(range(6)), editor.inversion)
    ours = editor.edit_latents(inversion, directions)
    assert ours.shape == (6, 3, 4, 16, 16)
    for i in range(6):
        for k, direction in enumerate(directions):
            theirs = by_pipeline(tiny_model, inversion, i, direction, "caption")
            assert relative_error(ours[i, k][None], theirs) <= 1e-4


def test_the_official_form_regularizes_and_keeps_masks_as_its_own(tiny_model: Path) -> None:
    editor = Editor.from_pretrained(
        tiny_model, inversion=InversionSettings(steps=3), guidance=GuidanceSettings(form="official")
    )
    assert editor.inverts.regularization == "official"
    assert Editor(editor.model).inverts.regularization == "sampled"
    pictures = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    inversion = editor.invert(pictures, CAPTIONS[:2], [1, 2])
    masks = np.zeros((2, 64, 64), bool)
    masks[:, :32] = True
    direction = editor.direction(["a cat"], ["a dog"])
    latents = editor.edit_latents(inversion, [direction], masks=masks)
    assert torch.equal(latents[:, 0, :, 8:], inversion.trajectory[0][:, :, 8:])
    edited = editor.edit(inversion, [direction], masks=masks)
    assert np.array_equal(edited[:, 0, 32:], pictures[:, 32:])
    assert not np.array_equal(edited[:, 0, :32], pictures[:, :32])
    strong = Editor(editor.model, parity="official", guidance=GuidanceSettings(strength=2.0))
    with pytest.raises(ConfigError, match="form official doesn't support strength"):
        strong.edit_latents(inversion, [direction])
    editor.guidance = GuidanceSettings(form="official", cfg=1.0)
    with pytest.raises(ConfigError, match="form official edits nothing unless it is above 1"):
        editor.edit_latents(inversion, [direction])
