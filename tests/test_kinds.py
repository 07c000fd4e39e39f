"""Checkpoints that the method can't edit are refused by name, before Ray starts and before any weights are loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import EDMDPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from p2pz_ray import Editor
from p2pz_ray.config import TranslateConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.translation.prepare import prepare


def written(scheduler: Any) -> dict[str, Any]:
    """Its configuration file."""
    return json.loads(scheduler.to_json_string())


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("unet/config.json", {"in_channels": 9}, "for inpainting"),
    ("unet/config.json", {"in_channels": 8}, "InstructPix2Pix"),
    ("unet/config.json", {"in_channels": 5}, "for depth"),
    ("unet/config.json", {"in_channels": 7}, "whose UNet takes 7 channels"),
    ("unet/config.json", {"time_cond_proj_dim": 256}, "a latent consistency model"),
    ("scheduler/scheduler_config.json", written(EDMDPMSolverMultistepScheduler()), "EDM's noise"),
    ("scheduler/scheduler_config.json", written(FlowMatchEulerDiscreteScheduler()), "flow matching"),
    ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "flow matching"),
    ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "a StableDiffusion3Pipeline: it has a trans"),
    ("model_index.json", {"_class_name": "FluxPipeline"}, "a FluxPipeline: it has a transformer"),
    ("model_index.json", {"_class_name": "PixArtSigmaPipeline"}, "a PixArtSigmaPipeline: it has a transformer"),
]


def changed(model: Path, folder: Path, file: str, values: dict[str, Any]) -> Path:
    """The checkpoint with other values in one of its configurations; one of another pipeline's name has its parts."""
    shutil.copytree(model, folder)
    config = json.loads((folder / file).read_text())
    if file == "model_index.json":
        config["transformer"] = config.pop("unet")
    elif "_class_name" in values:
        config = {}
    (folder / file).write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize(("file", "values", "says"), REFUSED)
def test_what_it_is_stands_in_the_sentence(
    tiny_model: Path, tmp_path: Path, file: str, values: dict[str, Any], says: str
) -> None:
    folder = changed(tiny_model, tmp_path / "model", file, values)
    with pytest.raises(ConfigError, match=says) as caught:
        Editor.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "in" / "a.png")
    edits = {"e": {"source": "cat", "target": "dog", "count": 2}}
    config = {"model": str(folder), "input": {"uri": str(tmp_path / "in")}, "edits": edits}
    with pytest.raises(ConfigError, match=says):
        prepare(TranslateConfig.model_validate({**config, "output": str(tmp_path / "run")}))
    assert not (tmp_path / "run" / "plan.json").exists()


def test_steps_that_end_half_way_are_refused_before_ray_starts(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "in" / "a.png")
    edits = {"e": {"source": "cat", "target": "dog", "count": 2}}
    config = {"model": str(tiny_model), "input": {"uri": str(tmp_path / "in")}, "edits": edits}
    config |= {"output": str(tmp_path / "run"), "inversion": {"steps": 501}}
    with pytest.raises(ConfigError, match=r"steps is 501: .* choose 500"):
        prepare(TranslateConfig.model_validate(config))
