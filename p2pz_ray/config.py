"""Typed configurations of the jobs.

    config = load("configs/mini/cat2dog.yaml", ["input.uri=photos", "seed=7"], TranslateConfig)

Every key that a file or the command line may set is a field below, with its default. Unknown keys are
refused.
"""

import re
import string
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from p2pz_ray.config_file import load, validated
from p2pz_ray.config_record import difference, fingerprint, record
from p2pz_ray.editing.settings import GuidanceSettings, InversionSettings
from p2pz_ray.language.sentences import SentenceSource, Template, TextFile, article

__all__ = ["DirectionConfig", "TranslateConfig", "difference", "fingerprint", "load", "record", "validated"]


def _written(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: write a value")
    if re.search(r"://[^/@]*:[^/@]*@", text):
        raise ValueError("holds a password, which the run and its logs would repeat: put it into storage_options")
    return text


Text = Annotated[str, AfterValidator(_written)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Device = Literal["auto", "cpu", "cuda"]


class Section(BaseModel):
    """A mapping whose keys are all known, whose values are never converted from another type, and which
    never changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, serialize_by_alias=True)


def _is_set(section: Section, key: str) -> bool:
    """Whether a key has another value than its default."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)


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
    loras: list[LoraConfig] = []


class ColumnsConfig(Section):
    """Columns of a Parquet or Arrow collection. The caption's is `captions.column`."""

    id: Text = "id"
    image: Text = "image"
    mask: Text | None = None  # masks: white where the edit may go, grey where it starts late, else black


class ConditionConfig(Section):
    """A picture that guides the UNet besides the caption, through a ControlNet or a T2I-Adapter: from a column, or the
    edges of the image itself."""

    model: Text  # the checkpoint's folder, in diffusers' layout
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
    storage_options: dict[str, Any] = {}  # handed to fsspec
    images_per_partition: Count = 64
    max_images: Count | None = None
    new: Literal["ignore", "append"] = "ignore"  # files added since the run was begun or finished
    unreadable: Literal["stop", "skip"] = "stop"  # what to do with tables that can't be read
    follow: list[Text] = []  # folders outside the collection whose pictures its tables may name


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


class FilesConfig(Section):
    """Two text files with one sentence per line."""

    source: Text
    target: Text
    storage_options: dict[str, Any] = {}


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint; the key itself stands in an environment variable, never here."""

    base_url: Text
    model: Text
    api_key_env: Text | None = "OPENAI_API_KEY"  # the variable's name; null sends no key
    sentences_per_request: Count = 50
    max_requests: Count | None = None
    temperature: Amount = 1.0
    timeout: Annotated[float, Field(gt=0)] = 120.0  # seconds per try
    retries: Natural = 5


class SentencesConfig(Section):
    """Where the sentences come from: the embedded template bank unless one of the keys is set."""

    files: FilesConfig | None = None
    endpoint: EndpointConfig | None = None
    text_model: ModelConfig | None = None  # a causal language model's folder or hub id

    @model_validator(mode="before")
    @classmethod
    def _template(cls, value: Any) -> Any:
        return {} if value == "template" else value

    @model_validator(mode="after")
    def _one(self) -> "SentencesConfig":
        given = [key for key, value in self if value is not None]
        if len(given) > 1:
            raise ValueError(f"has both {given[0]} and {given[1]}: keep one, or none for the template bank")
        return self

    def source(self, side: Literal["source", "target"], device: str = "cpu", seed: int = 0) -> SentenceSource:
        """What writes the sentences of one side of a direction; `device` and `seed` matter to a text model
        alone."""
        if self.files is not None:
            return TextFile(getattr(self.files, side), self.files.storage_options)
        if self.endpoint is not None:
            from p2pz_ray.language.endpoint import Endpoint

            return Endpoint(**self.endpoint.model_dump())
        if self.text_model is not None:
            from p2pz_ray.language.text_model import TextModel  # loads torch and transformers

            return TextModel(self.text_model.name, self.text_model.revision, device=device, seed=seed)
        return Template()


class EditConfig(Section):
    """One edit: from two words, from a direction file, or of other edits at once.

    Of several strengths, `strength: [0.5, 1]`, a run makes an edit each: NAME-50 and NAME-100.
    """

    source: Text | None = None
    target: Text | None = None
    sentences: SentencesConfig = SentencesConfig()
    count: Count = 1000  # sentences per side
    direction: Text | None = None  # URI of a file that `p2pz direction` wrote
    compose: Annotated[list[Text], Field(min_length=2)] | None = (
        None  # names of edits to make at once, each at its own strength
    )
    strength: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _words_or_direction(self) -> "EditConfig":
        words = (self.source, self.target)
        if self.direction is not None and any(words):
            raise ValueError("has a direction and words: keep direction alone, or source and target without it")
        if self.compose is not None and (self.direction is not None or any(words)):
            raise ValueError("has compose beside words or a direction: give compose alone, or leave it out")
        if self.direction is None and self.compose is None and not all(words):
            raise ValueError("names no edit: give it source and target, two words, or direction, a file")
        return self


def _percent(strength: float) -> str:
    return f"-{100 * strength:.0f}"


def swept_from(name: str, strength: float) -> str:
    """The name that an edit of this strength had before it was one of several strengths."""
    return name.removesuffix(_percent(strength)) or name


def well_named(edits: dict[str, EditConfig]) -> dict[str, EditConfig]:
    """The edits, if each name is one and those that compose others name edits beside them; else raises ValueError."""
    for name in edits:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ValueError(f"names an edit {name!r}: use letters, digits, '_' and '-' alone")
        for part in edits[name].compose or []:
            if part not in edits or edits[part].compose is not None:
                raise ValueError(f"composes {name} of {part!r}: name edits beside it that compose nothing themselves")
    return edits


class CredentialsConfig(Section):
    """The key that edited pictures are signed with, as C2PA's content credentials; its files lie on every machine."""

    certificates: Text  # PEM: the signer's certificate and those above it
    key: Text  # PEM: its private key
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    timestamps: Text | None = None  # URL of a time stamp authority, asked once per picture


class OutputFormatConfig(Section):
    """How edited images are encoded."""

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 95  # of jpeg and webp
    masks: bool = False  # whether pairs have a column `mask` with the area that each edit was confined to
    mark: Literal["xmp", "none"] = "xmp"  # whether an edited picture's metadata say that it was edited, and how
    c2pa: CredentialsConfig | None = None  # signs each edited picture


@dataclass(frozen=True)
class InversionConfig(InversionSettings):
    """InversionSettings, and `cache`, a URI where inversions are kept: another run over the same images reuses them."""

    cache: Text | None = None  # URI where inversions are kept; 3.3 MB per 512 px image at 50 steps
    cache_storage_options: dict[str, Any] = field(default_factory=dict)  # handed to fsspec

    @property
    def settings(self) -> InversionSettings:
        """Without the cache, which changes no inversion."""
        return InversionSettings(**{f.name: getattr(self, f.name) for f in fields(InversionSettings)})


class Processes(Section):
    """Processes on a cluster: `count` of them, or between `min` and `max`, as the cluster has room."""

    count: Count | None = None
    min: Count | None = None
    max: Count | None = None
    cpus: Amount = 1.0  # per process
    gpus: Amount | None = None  # per process; null: one where device is cuda, or auto in a cluster with GPUs

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.count is not None and (self.min is not None or self.max is not None):
            raise ValueError("has count beside min or max: keep count, or min and max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"has min {self.min} above max {self.max}: swap them")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most to run."""
        if self.count is not None:
            return self.count, self.count
        fewest = self.min or 1
        return fewest, self.max or fewest


class ReplicasConfig(Processes):
    """The Ray actors that hold a model each."""

    max_restarts: Annotated[int, Field(ge=-1)] = -1  # per replica; -1 is without limit
    max_task_retries: Natural = 2  # retries of a partition that killed its replica
    in_flight: Count = 2  # partitions assigned to a replica at a time
    deadline: Annotated[float, Field(gt=0)] = 3600.0  # seconds without a finished batch after which a replica restarts


class ToleranceConfig(Section):
    """How much of a run may fail."""

    failed_images: Share = 0.01  # share of all images


class RayConfig(Section):
    """Where Ray is."""

    address: Text | None = None  # null starts Ray on this machine, unless the environment names a cluster


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
    arguments: dict[str, Any] = {}  # passed to the pipeline: strength, guidance_scale, num_inference_steps and so on

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
    output_storage_options: dict[str, Any] = {}  # handed to fsspec
    safety: SafetyConfig | None = None  # null is without a safety checker
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    inversion: InversionConfig = InversionConfig()
    guidance: GuidanceSettings = GuidanceSettings()
    conditions: list[ConditionConfig] = []  # sketches, edges, depth
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
            swept = {f"{name}{_percent(strength)}": {**edit, "strength": float(strength)} for strength in strengths}
            if len(swept) < len(strengths):
                raise ValueError(f"has strengths in {name} that are the same in percent: keep one of them")
            each |= swept
        return each

    @field_validator("edits", mode="after")
    @classmethod
    def _names(cls, edits: dict[str, EditConfig]) -> dict[str, EditConfig]:
        return well_named(edits)

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
        unused = ("model", "inversion", "guidance", "dtype", "compile", "checkpointing", "conditions", "conditions_act")
        idle = [key for key in unused if _is_set(self, key)]
        idle += ["captions.model"] if self.captions.model is not None else []
        for name, edit in self.edits.items():
            idle += [f"edits.{name}.{key}" for key in ("sentences", "count", "direction") if _is_set(edit, key)]
        if idle:
            raise ValueError(f"student has no use for {', '.join(idle)}: leave that out, or the student")
        return self

    @model_validator(mode="after")
    def _engine_alone(self) -> "TranslateConfig":
        """A pipeline takes words, and has its own settings."""
        if self.engine is None:
            return self
        others = ("student", "inversion", "guidance", "compile", "checkpointing", "conditions", "conditions_act")
        idle = [key for key in others if _is_set(self, key)]
        idle += [f"model.{key}" for key in ("vae", "loras") if _is_set(self.model, key)]
        words = ("source", "target")
        for name, edit in self.edits.items():
            idle += [
                f"edits.{name}.{key}" for key in EditConfig.model_fields if key not in words and _is_set(edit, key)
            ]
        if idle:
            raise ValueError(f"engine has no use for {', '.join(idle)}: leave that out, or the engine")
        return self

    def parts_of(self, name: str) -> dict[str, float]:
        """Edit → strength, for the edits made at once under a name. Their names are those without the strength."""
        edit = self.edits[name]
        parts = {part: self.edits[part].strength for part in edit.compose} if edit.compose else {name: 1.0}
        return {swept_from(part, self.edits[part].strength): share * edit.strength for part, share in parts.items()}

    @property
    def caption_otherwise(self) -> str:
        """The caption of an image that has none of its own."""
        if self.captions.otherwise is not None:
            return self.captions.otherwise
        source = next(edit.source for edit in self.edits.values() if edit.source)
        return f"a photo of {article(source)} {source}"


class EmbeddingsConfig(Section):
    """Two files of mean sentence embeddings, in the form that the method's authors publish (.pt)."""

    source: Text
    target: Text


class DirectionConfig(Section):
    """`p2pz direction`: two words, or two files of embeddings → a direction file."""

    model: CheckpointConfig = CheckpointConfig(name="mini")
    source: Text | None = None
    target: Text | None = None
    embeddings: EmbeddingsConfig | None = None  # instead of words; no model is loaded then
    sentences: SentencesConfig = SentencesConfig()
    count: Count = 1000
    output: Text  # a .safetensors file
    device: Device = "auto"

    @model_validator(mode="after")
    def _words_or_embeddings(self) -> "DirectionConfig":
        words = (self.source, self.target)
        if self.embeddings is not None and any(words):
            raise ValueError("has embeddings and words: keep embeddings alone, or source and target without them")
        if self.embeddings is None and not all(words):
            raise ValueError("names no direction: give it source and target, two words, or embeddings, two files")
        return self
