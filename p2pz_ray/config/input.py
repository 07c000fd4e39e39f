"""The collection: which images, how each is decoded, its caption, and what guides its edit besides."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from p2pz_ray.config.model import ModelConfig
from p2pz_ray.config.section import Count, Section, Text


class ColumnsConfig(Section):
    """Columns of a Parquet or Arrow collection. The caption's is `captions.column`."""

    id: Text = "id"
    image: Text = "image"
    mask: Text | None = None  # masks: white where the edit may go, grey where it starts late, else black


class ConditionConfig(Section):
    """A picture that guides the UNet besides the caption, through a ControlNet or a T2I-Adapter: from a column, or the
    edges of the image itself."""

    model: Text  # the checkpoint's folder, in diffusers' layout, or "mini" for the miniature's own
    column: Text | None = None  # a column of pictures, in a collection of tables or tars
    source: Annotated[Literal["edges"] | None, Field(alias="from")] = None  # computed from the image itself
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0  # 0 is without effect

    @field_validator("source", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value == "depth":
            raise ValueError("is depth, but no depth model is here: write its pictures into a column, and name that")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (self.source is None):
            raise ValueError("names no picture, or two: give it column, or from: edges")
        return self


class InputConfig(Section):
    """The collection: a folder of images, tables or tars."""

    uri: Text
    columns: ColumnsConfig = ColumnsConfig()
    masks: Text | None = None  # a folder of masks with the same file names as the images
    storage_options: dict[str, Any] = Field(default_factory=dict)  # handed to fsspec
    images_per_partition: Count = 64
    max_images: Count | None = None
    new: Literal["ignore", "append"] = "ignore"  # files added since the run was begun or finished
    unreadable: Literal["stop", "skip"] = "stop"  # what to do with tables that can't be read
    follow: list[Text] = Field(
        default_factory=list
    )  # folders outside the collection whose pictures its tables may name


class ImageConfig(Section):
    """How an image is decoded."""

    size: tuple[int, int] | None = None  # (H, W) pixels; null is the model's own
    fit: Literal["crop", "pad", "stretch"] = "crop"
    max_bytes: Count = 64 << 20
    max_pixels: Count = 100_000_000

    @field_validator("size", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        sides = [value, value] if isinstance(value, int) else value
        if sides is None:
            return None
        if not isinstance(sides, (list, tuple)) or len(sides) != 2 or any(type(n) is not int or n < 8 for n in sides):
            raise ValueError(f"is {value!r}: give pixels of at least 8 as one number or [HEIGHT, WIDTH], or null")
        return tuple(sides)


class CaptionsConfig(Section):
    """An image's caption: its column's, else what `model` (a BLIP checkpoint) sees, else `otherwise`."""

    column: Text | None = "caption"
    otherwise: Text | None = None  # null: "a photo of a SOURCE", of the first edit that names its source
    model: ModelConfig | None = None
