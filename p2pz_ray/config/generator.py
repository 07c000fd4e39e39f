"""The student's architecture: the part of the training's configuration that the student's folder keeps."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from p2pz_ray.config.section import Count, Natural, Section


class GeneratorConfig(Section):
    """The student. At side s its feature maps have base/s channels, at most `max`."""

    architecture: Literal["comod", "mobile"] = "comod"
    base: Count = 32768
    max: Count = 512
    residual: bool = False  # comod: whether the output is added to the source; mobile always does
    code: Count = 1024  # comod: width of the global code
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5  # comod: of the global code, in training
    style: Natural = 0  # comod: width of the style made from an edit's direction; 0 is one edit at one strength
    style_layers: Count = 2  # comod: layers from the direction to that style
    z: Natural = 0  # comod: width of z; 0 is one answer per picture, as a teacher gives
    mapping_layers: Count = 8  # comod: layers that map z
    noise: bool = False  # comod: noise in every layer, in training
    blocks: Count = 8  # mobile: residual blocks

    @model_validator(mode="after")
    def _style_modulates(self) -> Self:
        if self.style and self.architecture == "mobile":
            raise ValueError("has a style, which architecture mobile can't use: choose comod")
        return self
