"""The checkpoint that a job loads."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from p2pz_ray.config.section import Section, Text


class ModelConfig(Section):
    """A checkpoint: "mini", a folder, a URI or a hub id. A plain text stands for its name."""

    name: Text
    revision: Text | None = None  # a commit of a hub repository; null is the newest

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class LoraConfig(Section):
    """A LoRA in safetensors, fused into the checkpoint's weights."""

    name: Text  # the file's path
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0


class CheckpointConfig(ModelConfig):
    """A diffusion checkpoint, with another autoencoder or LoRAs. Its name may be one .safetensors file or its URI."""

    layout: Text | None = None  # for a file: a folder or hub id with its configurations; null: Stable Diffusion's own
    vae: Text | None = None  # another autoencoder: a folder or a hub id
    loras: list[LoraConfig] = Field(default_factory=list)
