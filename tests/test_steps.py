"""Steps that a checkpoint's spacing does not lead up to noise are refused; few steps work where it does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from p2pz_ray import Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.schedule import Schedule
from p2pz_ray.errors import ConfigError

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def scheduler(spacing: str = "leading", offset: int = 1) -> DDIMScheduler:
    return DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=offset, timestep_spacing=spacing)


@pytest.mark.parametrize(
    ("steps", "ends", "better"),
    [(1, 1, 2), (400, 799, 333), (501, 501, 500), (600, 600, 500), (999, 999, None), (1000, 1000, 999)],
)
def test_steps_that_end_half_way_or_beyond_are_refused_with_the_next_that_do_not(
    steps: int, ends: int, better: int | None
) -> None:
    if better is None:
        assert Schedule.of(scheduler(), steps).timesteps[-1] == ends
        return
    with pytest.raises(ConfigError, match=rf"steps is {steps}: .*'leading'.* t = {ends} of 1000, so choose {better}$"):
        Schedule.of(scheduler(), steps)


@pytest.mark.parametrize("steps", [2, 5, 10, 15, 50, 70, 100, 250, 300, 500])
def test_the_usual_steps_stand(steps: int) -> None:
    schedule = Schedule.of(scheduler(), steps)
    assert len(schedule) == steps
    assert schedule.levels[-1] < 0.3


@pytest.mark.parametrize("steps", range(1, 9))
def test_trailing_spacing_leads_to_noise_at_any_number(steps: int) -> None:
    assert Schedule.of(scheduler("trailing"), steps).timesteps[-1] == 999


@pytest.mark.parametrize("steps", [1, 4])
def test_few_steps_at_scale_1_ask_for_no_negative_pass(tiny_model: Path, steps: int) -> None:
    """As SD-Turbo, SDXL-Turbo and Lightning are run."""
    editor = Editor.from_pretrained(
        tiny_model, inversion=InversionSettings(steps=steps), guidance=GuidanceSettings(cfg=1.0)
    )
    editor.model.scheduler = scheduler("trailing")
    pictures = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    inversion = editor.invert(pictures, ["a cat", "the cat"], [1, 2])
    rows: list[int] = []
    editor.model.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    latents = editor.edit_latents(inversion, [editor.direction(["a cat"], ["a dog"])])
    # At each step the reference's pass, the compared one and the prediction, of two images.
    assert rows == [2, 2, 2] * steps
    assert torch.isfinite(latents).all()
