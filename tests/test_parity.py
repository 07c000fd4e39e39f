"""With `parity="official"` the editor computes what diffusers' deprecated pipeline computes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from p2pz_ray import EditDirection, Editor, GuidanceSettings, InversionSettings
from p2pz_ray.lab.rivals import diffusers_pipeline
from p2pz_ray.mini import MODEL

STEPS, CFG, AMOUNT = 5, 5.0, 0.15  # of a number that 1000 is no multiple of, the pipeline takes "trailing" steps askew
CAPTION = "a photo of a cat on the grass"


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
        parity="official",
        inversion=InversionSettings(steps=STEPS, regularization="none"),
        guidance=GuidanceSettings(lambda_xa=AMOUNT, cfg=CFG),
    )


@pytest.fixture(scope="module")
def direction(editor: Editor) -> EditDirection:
    return editor.direction(["a cat in the snow", "the cat sleeps"], ["a dog in the snow", "the dog sleeps"])


def test_the_inverted_noise_is_the_pipelines(folder: Path, editor: Editor) -> None:
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = diffusers_pipeline(folder, "cpu").invert(
        CAPTION, image=clean, num_inference_steps=STEPS, num_reg_steps=0, output_type="np"
    )
    from p2pz_ray.editing.inversion import invert

    ours = invert(editor.model, clean, [CAPTION], [0], editor.inversion)
    assert relative_error(ours.trajectory[-1], theirs.latents) <= 1e-4


@pytest.mark.parametrize("negative", ["caption", ""])
def test_the_edited_latent_is_the_pipelines(
    folder: Path, editor: Editor, direction: EditDirection, negative: str
) -> None:
    from p2pz_ray.editing.inversion import invert

    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    inversion = invert(editor.model, clean, [CAPTION], [0], editor.inversion)
    editor.guidance = GuidanceSettings(lambda_xa=AMOUNT, cfg=CFG, negative=negative)
    ours = editor.edit_latents(inversion, [direction])[0]
    pipeline = diffusers_pipeline(folder, "cpu")
    made = pipeline(
        CAPTION,
        source_embeds=torch.zeros_like(direction.embedding)[None],
        target_embeds=direction.embedding[None],
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        negative_prompt=CAPTION if negative == "caption" else negative,
        latents=inversion.trajectory[-1],
        cross_attention_guidance_amount=AMOUNT,
        output_type="latent",
    )
    assert relative_error(ours, made.images) <= 1e-4
