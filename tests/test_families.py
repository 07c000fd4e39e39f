"""Stable Diffusion 2.x and SDXL run a whole edit as their own pipelines would, and refuse one another's directions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tiny_families import POOLED, as_refiner, save_tiny_sd2, save_tiny_sdxl

from p2pz_ray import EditDirection, Editor, GuidanceSettings, InversionSettings
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing.text import TextEncoder
from p2pz_ray.engines.direction import load_direction
from p2pz_ray.errors import ConfigError
from p2pz_ray.translation.prepare import prepare

WORDS = ["a photo of a cat", "the cat sleeps in the snow, near a very old house"]


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return save_tiny_sd2(tmp_path_factory.mktemp("sd2"), tiny_model / "tokenizer")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl"), tiny_model / "tokenizer")


def pictures(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@pytest.mark.parametrize("reference", ["trajectory", "reconstruction"])
def test_a_family_runs_a_whole_edit_each_image_and_direction_as_if_alone(
    family: str, reference: str, request: pytest.FixtureRequest
) -> None:
    editor = Editor.from_pretrained(
        request.getfixturevalue(family),
        inversion=InversionSettings(steps=4),
        guidance=GuidanceSettings(reference=reference),  # type: ignore[arg-type]
    )
    dog, horse = (editor.direction(["a cat"], [f"a {word}"]) for word in ("dog", "horse"))
    together = editor.edit(editor.invert(pictures(), WORDS, [1, 2]), [dog, horse])
    assert together.shape == (2, 2, 64, 96, 3)
    alone = editor.edit(editor.invert(pictures()[1:], WORDS[1:], [2]), [horse])
    assert np.abs(alone[0, 0].astype(int) - together[1, 1].astype(int)).max() <= 1
    assert not np.array_equal(together[1, 0], together[1, 1])


def test_v_prediction_of_pure_noise_stays_in_bounds_by_default(sd2: Path) -> None:
    """By default the guided edit of a v-prediction model is about as large as its unguided one."""
    editor = Editor.from_pretrained(sd2, inversion=InversionSettings(steps=10))
    assert editor.guidance.resolve(editor.model) == (0.01, 5.0, 1.0)
    inversion = editor.invert(pictures(), WORDS, [1, 2])
    direction = editor.direction(["a cat"], ["a dog"])
    guided = editor.edit_latents(inversion, [direction])
    editor.guidance = GuidanceSettings(lambda_xa=0)
    assert guided.norm() < 2 * editor.edit_latents(inversion, [direction]).norm()


def test_two_encoders_say_what_sdxls_own_pipeline_makes_of_a_sentence(sdxl: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl)
    tokens, _, pooled, _ = pipeline.encode_prompt(WORDS, device="cpu", do_classifier_free_guidance=False)
    for text in (TextEncoder.load(sdxl), Editor.from_pretrained(sdxl).model.text):
        ours = text.embed(WORDS)
        assert (text.tokens, text.width, text.pooled) == (24, 40, POOLED)
        assert ours.pooled is not None
        torch.testing.assert_close(ours.tokens, tokens)
        torch.testing.assert_close(ours.pooled, pooled)


@pytest.mark.parametrize(("negative", "zeros"), [(WORDS[0], True), (None, True), (None, False)])
def test_a_guided_prediction_is_that_of_sdxls_own_pipeline(
    sdxl: Path, tmp_path: Path, negative: str | None, zeros: bool
) -> None:
    """Of a picture that isn't square: what the UNet is told of its size is in it. And with no negative, that is zeros
    where the checkpoint says so, and else an empty text."""
    from p2pz_ray.editing.paper import guided

    folder = Path(shutil.copytree(sdxl, tmp_path / "sdxl"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": zeros}))
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    x = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}

    class Seen(Exception):  # noqa: N818
        pass

    def step(noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, **_: object) -> None:
        seen.update(noise=noise, t=t)
        raise Seen

    pipeline.scheduler.set_timesteps(3)
    pipeline.scheduler.scale_model_input = lambda latents, t: x.repeat(len(latents), 1, 1, 1)
    pipeline.scheduler.step = step
    with pytest.raises(Seen):
        pipeline(
            WORDS[1],
            negative_prompt=negative,
            height=64,
            width=96,
            num_inference_steps=3,
            guidance_scale=5.0,
            latents=x,
        )
    editor = Editor.from_pretrained(folder)
    c_neg, c = editor.model.negative(negative or "", ["a cat"]), editor.model.embed([WORDS[1]])
    with torch.no_grad():
        ours, _ = guided(editor.model, x, int(seen["t"]), c_neg, c, 5.0, 0.5)
    assert int(seen["t"]) == float(seen["t"])
    torch.testing.assert_close(ours, seen["noise"], rtol=1e-4, atol=1e-5)


def test_sdxls_direction_keeps_both_parts_in_its_file_and_under_arithmetic(sdxl: Path, tmp_path: Path) -> None:
    text = TextEncoder.load(sdxl)
    made = EditDirection.from_sentences(text, ["a cat"], ["a dog", "the dog"])
    after, before = text.embed(["a dog", "the dog"]), text.embed(["a cat"])
    assert made.pooled is not None
    assert after.pooled is not None
    assert before.pooled is not None
    torch.testing.assert_close(made.pooled, after.pooled.mean(0) - before.pooled[0])
    made.save(str(tmp_path / "dog.safetensors"))
    again = EditDirection.load(str(tmp_path / "dog.safetensors"))
    assert again.digest == made.digest
    assert again.pooled is not None
    assert torch.equal(again.pooled, made.pooled)
    again.check(text, "dog")
    twice = made + made * -0.5
    assert twice.pooled is not None
    torch.testing.assert_close(twice.pooled, 0.5 * made.pooled)
    assert (made * 2).digest != made.digest


def test_the_pooled_part_of_a_direction_changes_the_edit(sdxl: Path) -> None:
    editor = Editor.from_pretrained(sdxl, inversion=InversionSettings(steps=2))
    inversion = editor.invert(pictures(), WORDS, [1, 2])
    made = editor.direction(["a cat"], ["a dog"])
    assert made.pooled is not None
    without = EditDirection(made.embedding, made.provenance, torch.zeros_like(made.pooled))
    edited = editor.edit_latents(inversion, [made, without])
    assert (edited[:, 0] - edited[:, 1]).abs().max() > 1e-4


def test_a_direction_of_another_family_is_refused_in_one_sentence(sdxl: Path, sd2: Path, tiny_model: Path) -> None:
    texts = {name: TextEncoder.load(folder) for name, folder in (("xl", sdxl), ("2", sd2), ("1", tiny_model))}
    for name, text in texts.items():
        made = EditDirection.from_sentences(text, ["a cat"], ["a dog"])
        for other in texts.keys() - {name}:
            with pytest.raises(ConfigError, match="cat2dog was made for another model") as caught:
                made.check(texts[other], "cat2dog")
            assert "\n" not in str(caught.value)
    # Published embeddings name no encoder: tokens of the right shape are still not enough for SDXL.
    with pytest.raises(ConfigError, match=rf"24×40 and {POOLED} pooled"):
        EditDirection(torch.zeros(24, 40)).check(texts["xl"], "published")
    with pytest.raises(ConfigError, match="two models"):
        EditDirection(torch.zeros(24, 40)) + EditDirection(torch.zeros(24, 40), {}, torch.zeros(POOLED))


def test_the_refiner_is_refused(sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="refiner"):
        Editor.from_pretrained(as_refiner(sdxl, tmp_path / "refiner"))


def test_a_run_takes_its_size_from_sdxls_folder_and_writes_its_direction(sdxl: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.fromarray(pictures()[0]).save(tmp_path / "photos" / "a.png")
    edits = {"cat2dog": {"source": "cat", "target": "dog", "count": 4}}
    settings = {"model": str(sdxl), "input": {"uri": str(tmp_path / "photos")}, "edits": edits}
    found = prepare(TranslateConfig.model_validate({**settings, "output": str(tmp_path / "run")}))
    assert found is not None
    assert found[0].size == (64, 64)
    kept = load_direction(found[0].folder, "cat2dog")
    assert kept is not None
    kept.check(TextEncoder.load(sdxl), "cat2dog")
    assert kept.pooled is not None
