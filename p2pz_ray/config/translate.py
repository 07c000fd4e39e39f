"""The configuration of `p2pz translate`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from p2pz_ray.config.edits import EditConfig, base_name, checked_names, percent
from p2pz_ray.config.engine import EngineConfig, InversionConfig, SafetyConfig
from p2pz_ray.config.input import CaptionsConfig, ConditionConfig, ImageConfig, InputConfig
from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.config.output import OutputFormatConfig
from p2pz_ray.config.processes import RayConfig, ReplicasConfig, ToleranceConfig
from p2pz_ray.config.section import Count, Device, Section, Text, is_set
from p2pz_ray.editing.settings import GuidanceSettings
from p2pz_ray.language.sentences import article


class TranslateConfig(Section):
    """`p2pz translate`: a collection → a run of pairs."""

    model: CheckpointConfig = CheckpointConfig(name="mini")
    student: Text | None = None  # a folder that `p2pz distill` wrote, or "mini": makes the edits in one pass
    engine: EngineConfig | None = None  # null is pix2pix-zero
    input: InputConfig
    image: ImageConfig = ImageConfig()
    captions: CaptionsConfig = CaptionsConfig()
    edits: Annotated[dict[str, EditConfig], Field(min_length=1)]
    output: Text
    output_format: OutputFormatConfig = OutputFormatConfig()
    output_storage_options: dict[str, Any] = Field(default_factory=dict)  # handed to fsspec
    safety: SafetyConfig | None = None  # null is without a safety checker
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    inversion: InversionConfig = InversionConfig()
    guidance: GuidanceSettings = GuidanceSettings()
    conditions: list[ConditionConfig] = Field(default_factory=list)  # sketches, edges, depth
    conditions_act: Literal["all", "edit"] = "edit"  # all: in inversion and reference too
    batch_size: Count | None = 8  # images per batch; null: as many as fit on the GPU
    device: Device = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False  # torch.compile: takes minutes, which pays on a GPU in long runs
    checkpointing: bool = False  # gradient checkpointing: less memory, more time
    deterministic: bool = False  # the same pictures bit for bit on machines of one kind; slower on a GPU
    replicas: ReplicasConfig = ReplicasConfig()
    tolerance: ToleranceConfig = ToleranceConfig()
    ray: RayConfig = RayConfig()

    @field_validator("edits", mode="before")
    @classmethod
    def _each_strength(cls, edits: Any) -> Any:
        """An edit of its own for each of several strengths."""
        if not isinstance(edits, dict):
            return edits
        each: dict[Any, Any] = {}
        for name, edit in edits.items():
            strengths = edit.get("strength") if isinstance(edit, dict) else None
            if not isinstance(strengths, list):
                each[name] = edit
                continue
            if not strengths or not all(type(strength) in (int, float) for strength in strengths):
                raise ValueError(f"has strength {strengths!r} in {name}: give a number, or a list of some")
            swept = {f"{name}{percent(strength)}": {**edit, "strength": float(strength)} for strength in strengths}
            if len(swept) < len(strengths):
                raise ValueError(f"has strengths in {name} that are the same in percent: keep one of them")
            each |= swept
        return each

    @field_validator("edits", mode="after")
    @classmethod
    def _names(cls, edits: dict[str, EditConfig]) -> dict[str, EditConfig]:
        return checked_names(edits)

    @model_validator(mode="after")
    def _caption_known(self) -> "TranslateConfig":
        if self.captions.otherwise is None and not any(edit.source for edit in self.edits.values()):
            raise ValueError(
                "captions.otherwise is missing: no edit names its source, so write the caption of images without one"
            )
        return self

    @model_validator(mode="after")
    def _same_batches(self) -> "TranslateConfig":
        if self.deterministic and self.batch_size is None:
            raise ValueError("deterministic needs batches of one size: give batch_size a number, not null")
        return self

    @model_validator(mode="after")
    def _student_alone(self) -> "TranslateConfig":
        """A student knows its edits and has nothing else to set."""
        if self.student is None:
            return self
        keys = ("model", "inversion", "guidance", "dtype", "compile", "checkpointing", "conditions", "conditions_act")
        unused = [key for key in keys if is_set(self, key)]
        unused += ["captions.model"] if self.captions.model is not None else []
        for name, edit in self.edits.items():
            unused += [f"edits.{name}.{key}" for key in ("sentences", "count", "direction") if is_set(edit, key)]
        if unused:
            raise ValueError(f"student has no use for {', '.join(unused)}: leave that out, or the student")
        return self

    @model_validator(mode="after")
    def _engine_alone(self) -> "TranslateConfig":
        """A pipeline takes words, and has its own settings."""
        if self.engine is None:
            return self
        others = ("student", "inversion", "guidance", "compile", "checkpointing", "conditions", "conditions_act")
        unused = [key for key in others if is_set(self, key)]
        unused += [f"model.{key}" for key in ("vae", "loras") if is_set(self.model, key)]
        words = ("source", "target")
        for name, edit in self.edits.items():
            unused += [
                f"edits.{name}.{key}" for key in EditConfig.model_fields if key not in words and is_set(edit, key)
            ]
        if unused:
            raise ValueError(f"engine has no use for {', '.join(unused)}: leave that out, or the engine")
        return self

    def parts_of(self, name: str) -> dict[str, float]:
        """Edit → strength, for the edits made at once under a name. Their names are those without the strength."""
        edit = self.edits[name]
        parts = {part: self.edits[part].strength for part in edit.compose} if edit.compose else {name: 1.0}
        return {base_name(part, self.edits[part].strength): share * edit.strength for part, share in parts.items()}

    @property
    def caption_otherwise(self) -> str:
        """The caption of an image that has none of its own."""
        if self.captions.otherwise is not None:
            return self.captions.otherwise
        source = next(edit.source for edit in self.edits.values() if edit.source)
        return f"a photo of {article(source)} {source}"
