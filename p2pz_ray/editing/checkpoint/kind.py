"""What kind of checkpoint a folder holds, from its configurations alone: what can't be edited is refused by name before
any weights are loaded."""

import json
from pathlib import Path
from typing import Any

from p2pz_ray.errors import ConfigError, first_line

CHANNELS = {
    9: "for inpainting: its UNet takes a mask and a masked picture besides",
    8: "InstructPix2Pix: its UNet takes the source picture besides",
    5: "for depth: its UNet takes a depth map besides",
}
ANOTHER = "give a Stable Diffusion 1.x, 2.x or XL checkpoint that makes pictures of text alone"


def check_kind(folder: Path) -> None:
    """Raise ConfigError, naming what it is, for a checkpoint whose pictures the method can't edit."""
    index = read_json(folder / "model_index.json")
    called = str(index.get("_class_name", "pipeline"))
    if "transformer" in index and "unet" not in index:
        _refuse(folder, f"a {called}: it has a transformer in the UNet's place")
    if "text_encoder_2" in index and not any(index.get("text_encoder") or [None]):
        _refuse(folder, "SDXL's refiner: it has one text encoder of two, and edits nothing")
    unet = read_json(folder / "unet" / "config.json")
    channels = unet.get("in_channels", 4)
    if channels != 4:
        _refuse(folder, CHANNELS.get(channels, f"a {called} whose UNet takes {channels} channels and not 4"))
    if unet.get("time_cond_proj_dim"):
        _refuse(folder, "a latent consistency model: its UNet is told the guidance scale besides")
    _check_scheduler(folder, read_json(folder / "scheduler" / "scheduler_config.json"))


def _check_scheduler(folder: Path, scheduler: dict[str, Any]) -> None:
    name = str(scheduler.get("_class_name", "scheduler"))
    flows = "Flow" in name or scheduler.get("use_flow_sigmas") or "flow" in str(scheduler.get("prediction_type"))
    if flows:
        _refuse(folder, f"trained for flow matching ({name}), whose steps are no DDIM steps")
    if name.startswith("EDM") or "sigma_data" in scheduler:
        _refuse(folder, f"trained with EDM's noise ({name}), whose steps are no DDIM steps")
    if "beta_schedule" not in scheduler and "trained_betas" not in scheduler:
        _refuse(folder, f"without a noise schedule: {name}'s configuration names no beta_schedule")


def _refuse(folder: Path, what: str) -> None:
    raise ConfigError(f"model {folder} is {what}: {ANOTHER}")


def read_json(file: Path) -> dict[str, Any]:
    """A configuration file of a checkpoint. Raises ConfigError naming it."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} can't be read ({first_line(error)}): the model's folder is incomplete, so fetch it again"
        ) from error
    return found if isinstance(found, dict) else {}
