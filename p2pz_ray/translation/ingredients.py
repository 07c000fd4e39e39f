"""What determines a run's pixels besides its configuration: the checkpoint's contents and the directions."""

from dataclasses import dataclass

import torch

from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.config.section import Device
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint.files import identity, locate, locate_vae
from p2pz_ray.editing.checkpoint.weights import PARTS
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.engines.determinism import make_deterministic
from p2pz_ray.engines.direction import Recipe, edit_directions, loras_of
from p2pz_ray.engines.precision import torch_dtype


@dataclass(frozen=True)
class Wanted:
    """What is to be found out of a checkpoint, told so that it can be sent.

    identity: the checkpoint's, where the weights lie on the machine that asks; None where they are yet to be fetched.
    parts: whose weights those are, None for all.
    """

    model: CheckpointConfig
    dtype: str
    identity: str | None
    recipe: Recipe
    parts: tuple[str, ...] | None = PARTS
    deterministic: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing of the checkpoint is needed any more."""
        return self.identity is not None and self.recipe.complete


@dataclass(frozen=True)
class Ingredients:
    """identity: of the checkpoint with its autoencoder and LoRAs; directions: by edit name."""

    identity: str
    directions: dict[str, EditDirection]


def found_here(wanted: Wanted, device: Device = "cpu") -> Ingredients:
    """Compute a checkpoint's identity and make the directions, on this machine.

    Where weights have to be fetched, all are that an edit needs: this machine's replica needs them too. Raises
    ConfigError where the checkpoint can't be had or a direction doesn't fit it.
    """
    if wanted.complete:
        assert wanted.identity is not None
        return Ingredients(wanted.identity, edit_directions(wanted.recipe, None))
    if wanted.deterministic:
        make_deterministic()
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    half = torch_dtype(wanted.dtype, place) != torch.float32
    model, loras = wanted.model, loras_of(wanted.model)
    checkpoint = locate(model.name, model.revision, half, wanted.parts, model.layout)
    known = wanted.identity
    if known is None:
        vae = None if model.vae is None else locate_vae(model.vae, half)
        known = identity(checkpoint, vae, loras, half)
    text = None
    if not wanted.recipe.complete:
        text = TextEncoder.load(checkpoint, loras)
        text.encoder.to(place)
    return Ingredients(known, edit_directions(wanted.recipe, text, place))
