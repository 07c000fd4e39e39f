"""The configuration of `p2pz evaluate`."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from p2pz_ray.config.model import ModelConfig
from p2pz_ray.config.processes import RayConfig, ReplicasConfig
from p2pz_ray.config.section import Count, Device, Section, Text
from p2pz_ray.perceptual import Perceptual

PROMPT = "a photo of a {}"
"""The words that CLIP compares a picture with; {} is an edit's word."""


class ClipConfig(Section):
    """A CLIP: "mini", a folder or a hub id such as openai/clip-vit-base-patch32."""

    model: ModelConfig
    prompt: Text = PROMPT  # {} is an edit's word

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_validator("prompt")
    @classmethod
    def _has_place(cls, prompt: str) -> str:
        if prompt.count("{}") != 1:
            raise ValueError(f"is {prompt!r}: write {{}} once, where the word goes")
        return prompt


class StructureConfig(Section):
    """A DINO ViT's folder or hub id, such as facebook/dino-vitb8, or a stand-in under its own name:
    "efficientnet-lite0" for photographs, "judge" for the miniature."""

    model: ModelConfig
    scale: Literal["0-1", "0-255"] = "0-1"  # of the pixels that a ViT sees; 0-255 is PnPInversion's variant

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class MasksConfig(Section):
    """Where the objects are: the source's by a column of the collection, or by a model; the edited picture's by the
    model: a segmentation checkpoint, such as facebook/mask2former-swin-tiny-coco-panoptic, among whose classes must be
    the edits' words; "u2netp", which sees what stands out; or "world", which knows a miniature scene without
    its animal. "run" is the masks that the run's edits were confined to, where it kept them (output_format.masks)."""

    column: Text | None = None
    model: ModelConfig | None = None

    @property
    def by(self) -> str | None:
        """The model's name."""
        return self.model.name if self.model else None


class CollectionConfig(Section):
    """The collection that the run was made of, in Parquet, for what of it the scores need."""

    uri: Text
    id: Text = "id"
    source_text: Text | None = None  # columns with sentences that say what is in a source and in its edit
    target_text: Text | None = None
    storage_options: dict[str, Any] = Field(default_factory=dict)  # handed to fsspec


class MetricsConfig(Section):
    """What is measured; null leaves a metric out."""

    clip: ClipConfig | None = None
    structure: StructureConfig | None = None
    background: Perceptual | None = None
    accuracy: Literal["efficientnet-lite0", "judge"] | None = None
    pixels: bool = True
    truth: bool = False  # against the exact counterfactuals of a miniature collection


class WordsConfig(Section):
    """What an edit leads from and to, in words."""

    source: Text
    target: Text


class EvaluateConfig(Section):
    """`p2pz evaluate`: a run → scores, metrics.json and a report."""

    run: Text
    storage_options: dict[str, Any] = Field(default_factory=dict)  # handed to fsspec
    collection: CollectionConfig | None = None
    words: dict[str, WordsConfig] = Field(default_factory=dict)  # by edit; null: as the run was configured
    masks: MasksConfig = MasksConfig()
    metrics: MetricsConfig = MetricsConfig()
    batch_size: Count = 16
    device: Device = "auto"
    replicas: ReplicasConfig = ReplicasConfig()
    report: bool = True
    student: Text | None = None  # a student's run of the same images, compared with this one in the report
    pictures: Count = 120  # pairs shown in the report
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _possible(self) -> "EvaluateConfig":
        needs = {
            "masks.column": self.masks.column is not None,
            "masks.model world": self.masks.by == "world",
            "metrics.truth": self.metrics.truth,
        }
        missing = [key for key, needed in needs.items() if needed]
        if missing and self.collection is None:
            raise ValueError(f"{missing[0]} needs the collection that the run translated: set collection.uri")
        if self.metrics.background and self.masks == MasksConfig():
            raise ValueError("metrics.background needs to know where the object is: set masks.column or masks.model")
        return self
