"""The kind of checkpoint that a folder holds, from its configurations: one that the method can't use is refused, with
its kind named, before any weights are loaded."""

import json
from pathlib import Path
from typing import Any

from p2pz_ray.errors import ConfigError, first_line

CHANNELS = {
    9: "for inpainting: its UNet also takes a mask and a masked picture",
    8: "InstructPix2Pix: its UNet also takes the source picture",
    5: "for depth: its UNet also takes a depth map",
}
ANOTHER = "give a Stable Diffusion 1.x, 2.x or XL checkpoint that makes pictures from text only"


def check_kind(folder: Path) -> None:
    """Raise ConfigError, with the kind named, for a checkpoint that the method can't edit with."""
    index = read_json(folder / "model_index.json")
    pipeline = str(index.get("_class_name", "pipeline"))
    if "transformer" in index and "unet" not in index:
        _refuse(folder, f"a {pipeline}: it has a transformer instead of a UNet")
    if "text_encoder_2" in index and not any(index.get("text_encoder") or [None]):
        _refuse(folder, "SDXL's refiner, which has only one of SDXL's two text encoders")
    unet = read_json(folder / "unet" / "config.json")
    channels = unet.get("in_channels", 4)
    if channels != 4:
        _refuse(folder, CHANNELS.get(channels, f"a {pipeline} whose UNet takes {channels} channels instead of 4"))
    if unet.get("time_cond_proj_dim"):
        _refuse(folder, "a latent consistency model: its UNet also takes the guidance scale")
    _check_scheduler(folder, read_json(folder / "scheduler" / "scheduler_config.json"))


def _check_scheduler(folder: Path, scheduler: dict[str, Any]) -> None:
    name = str(scheduler.get("_class_name", "scheduler"))
    flows = "Flow" in name or scheduler.get("use_flow_sigmas") or "flow" in str(scheduler.get("prediction_type"))
    if flows:
        _refuse(folder, f"trained for flow matching ({name}), whose steps aren't DDIM steps")
    if name.startswith("EDM") or "sigma_data" in scheduler:
        _refuse(folder, f"trained with EDM's noise ({name}), whose steps aren't DDIM steps")
    if "beta_schedule" not in scheduler and "trained_betas" not in scheduler:
        _refuse(folder, f"without a noise schedule: {name}'s configuration names no beta_schedule")


def _refuse(folder: Path, what: str) -> None:
    raise ConfigError(f"model {folder} is {what}: {ANOTHER}")


def read_json(file: Path) -> dict[str, Any]:
    """A configuration file of a checkpoint. Raises ConfigError that names the file."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} can't be read ({first_line(error)}): the model's folder is incomplete, so fetch it again"
        ) from error
    return content if isinstance(content, dict) else {}
