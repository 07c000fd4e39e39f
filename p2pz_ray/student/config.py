"""What a student is built of: the part of its training's configuration that its own folder keeps."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from p2pz_ray.config import Count, Natural, Section


class GeneratorConfig(Section):
    """The student. At side s its feature maps have base/s channels, at most `max`."""

    architecture: Literal["comod", "mobile"] = "comod"
    base: Count = 32768
    max: Count = 512
    residual: bool = False  # comod: whether the output is added to the source; mobile always does
    code: Count = 1024  # comod: width of the global code
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5  # comod: of the global code, in training
    style: Natural = 0  # comod: width of the style that an edit's direction becomes; 0 is one edit at one strength
    style_layers: Count = 2  # comod: from the direction to that style
    z: Natural = 0  # comod: width of z; 0 is one answer to a picture, as a teacher gives
    mapping_layers: Count = 8  # comod: of z
    noise: bool = False  # comod: noise in every layer, in training
    blocks: Count = 8  # mobile

    @model_validator(mode="after")
    def _style_modulates(self) -> Self:
        if self.style and self.architecture == "mobile":
            raise ValueError("has a style, and nothing in architecture mobile that it could change: choose comod")
        return self
