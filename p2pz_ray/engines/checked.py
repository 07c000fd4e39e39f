"""A checkpoint, checked from its configurations alone before its weights are loaded."""

from pathlib import Path

from diffusers import DDIMScheduler

from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.editing.checkpoint.files import is_here, locate, locate_vae
from p2pz_ray.editing.checkpoint.kind import check_kind, read_json
from p2pz_ray.editing.checkpoint.lora import Lora
from p2pz_ray.editing.checkpoint.weights import PARTS, TEXT, variant_in
from p2pz_ray.editing.schedule import Schedule
from p2pz_ray.engines.direction import loras_of
from p2pz_ray.engines.precision import Modelled, in_half
from p2pz_ray.errors import ConfigError


def picture_size(wanted: tuple[int, int] | None, checkpoint: Path) -> tuple[int, int]:
    """(H, W) pixels to edit at, the model's own where `wanted` is None; ConfigError for what the model can't halve as
    often as it does."""
    unet, vae = (read_json(checkpoint / part / "config.json") for part in ("unet", "vae"))
    factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    step = factor * 2 ** (len(unet.get("block_out_channels", [0] * 4)) - 1)
    side = int(unet.get("sample_size") or 64) * factor
    size = wanted or (side, side)
    if any(length % step for length in size):
        raise ConfigError(f"image.size is {list(size)}: the model needs height and width in multiples of {step}.")
    return size


def checked_checkpoint(config: Modelled) -> tuple[Path, Path | None, list[Lora]]:
    """The folder of a configuration's checkpoint, that of another autoencoder, and the LoRAs; of what isn't here, the
    configurations alone are fetched. Raises ConfigError for a checkpoint that can't be edited, or not in so many
    steps."""
    half = in_half(config)
    checkpoint = locate(config.model.name, config.model.revision, half, (), config.model.layout)
    vae = None if config.model.vae is None else locate_vae(config.model.vae, half, weights=False)
    check_kind(checkpoint)
    _check_steps(config, checkpoint)
    if is_here(config.model.name):
        for part in PARTS:
            if (checkpoint / part).is_dir() and not (part == "vae" and vae is not None):
                variant_in(checkpoint / part, half and part not in TEXT)
    loras = loras_of(config.model)
    for lora in loras:
        lora.check()
    return checkpoint, vae, loras


def are_here(model: CheckpointConfig) -> bool:
    """Whether this machine has all that a model is made of."""
    return is_here(model.name) and (model.vae is None or is_here(model.vae))


def _check_steps(config: Modelled, checkpoint: Path) -> None:
    """Raise ConfigError for steps that the checkpoint's spacing doesn't lead up to noise."""
    if config.inversion.steps is not None:
        scheduler = DDIMScheduler.from_config(read_json(checkpoint / "scheduler" / "scheduler_config.json"))
        Schedule.of(scheduler, config.inversion.steps)
