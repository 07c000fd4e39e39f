"""What makes the edits: the inversion and its cache, another pipeline in its place, and a safety checker."""

import string
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import Field, field_validator

from p2pz_ray.config.model import ModelConfig
from p2pz_ray.config.section import Section, Text
from p2pz_ray.editing.settings import InversionSettings


@dataclass(frozen=True)
class InversionConfig(InversionSettings):
    """InversionSettings, and `cache`, a URI where inversions are kept: another run over the same images reuses them."""

    cache: Text | None = None  # URI where inversions are kept; 3.3 MB per 512 px image at 50 steps
    cache_storage_options: dict[str, Any] = field(default_factory=dict)  # handed to fsspec

    @property
    def settings(self) -> InversionSettings:
        """Without the cache, which changes no inversion."""
        return InversionSettings(**{f.name: getattr(self, f.name) for f in fields(InversionSettings)})


class SafetyConfig(Section):
    """A safety checker like the one of Stable Diffusion's checkpoints: rows that it flags have the status flagged, and
    students are not trained on them."""

    model: ModelConfig  # a StableDiffusionSafetyChecker: its folder, that of a checkpoint that has one, or a hub id
    holds: Literal["kept", "blurred", "none"] = (
        "blurred"  # what a flagged row holds: the picture, a blurred one, or none
    )


PROMPT = ("source", "target", "caption", "swapped")


class EngineConfig(Section):
    """One of diffusers' image-to-image pipelines instead of the editor, with a prompt; `model` is its checkpoint.

    In `prompt`, {source} and {target} are the edit's words, {caption} is the image's caption and {swapped} the caption
    with the source word replaced by the target.
    """

    pipeline: Text  # the class's name: StableDiffusionImg2ImgPipeline
    prompt: Text
    arguments: dict[str, Any] = Field(
        default_factory=dict
    )  # passed to the pipeline: strength, guidance_scale, num_inference_steps and so on

    @field_validator("prompt", mode="after")
    @classmethod
    def _fields(cls, prompt: str) -> str:
        try:
            named = [field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None]
        except ValueError as error:
            raise ValueError(f"is {prompt!r}, whose braces don't match ({error})") from None
        unknown = [field for field in named if field not in PROMPT]
        if unknown:
            raise ValueError(f"names {{{unknown[0]}}}: it can name {', '.join(f'{{{field}}}' for field in PROMPT)}")
        return prompt
