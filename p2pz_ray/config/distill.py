"""The configuration of `p2pz distill`: every key that its file or the command line can set."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.config.input import ImageConfig
from p2pz_ray.config.processes import Processes, RayConfig
from p2pz_ray.config.section import Amount, Count, Device, Natural, Section, Share, Text
from p2pz_ray.perceptual import Perceptual

Size = Annotated[int, Field(ge=8)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PairColumns(Section):
    """Columns of tables that hold pairs; a run's columns are known."""

    id: Text = "id"
    source: Text = "image"
    edited: Text = "edited_image"


class PairsConfig(Section):
    """The training pairs: from runs, or from tables with two pictures per row."""

    runs: list[Text] = Field(default_factory=list)
    tables: list[Text] = Field(default_factory=list)  # Parquet files or folders of them
    columns: PairColumns = PairColumns()  # of the tables
    storage_options: dict[str, Any] = Field(default_factory=dict)  # handed to fsspec
    edit: Text | None = None  # one edit, at all its strengths; null: all edits of the runs
    filter: Text | None = (
        None  # a condition over the scores and strength, such as "mask_overlap >= 0.7 and clip_gain >= 0.1"
    )
    duplicates: Amount = 1.0  # sources closer than this count as one: mean grey levels (0 … 255) of 8×8 thumbnails
    test: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the sources held out from training
    max_pairs: Count | None = None  # the most pairs: those of a random sample of the sources

    @field_validator("runs", "tables", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> "PairsConfig":
        if bool(self.runs) == bool(self.tables):
            raise ValueError("needs runs (outputs of p2pz translate) or tables (Parquet with two pictures per row)")
        return self


class DiscriminatorConfig(Section):
    """The student's opponent in training."""

    base: Count = 32768
    max: Count = 512
    lr: Rate | None = None  # null: the generator's


class LossesConfig(Section):
    """The losses and their weights."""

    adversarial: Amount = 1.0  # 0 is without a discriminator
    adversarial_after: Natural = 0  # first steps without the discriminator, which cost half as much
    l1: Amount = 1.0
    perceptual: Amount = 1.0
    perceptual_model: Perceptual | None = "stlpips-alex"  # null is none
    perceptual_every: Count = 1  # steps; the weight is multiplied by this. It is the most expensive loss
    r1: Amount | None = None  # γ; null: 0.0002·size²/batch
    r1_every: Count = 16  # steps


class AugmentationConfig(Section):
    """Random changes, the same for all pictures of a pair."""

    flip: Share = 0.0  # probability
    shift: Share = 0.0  # of the side, at most
    colour: Share = 0.0  # brightness, saturation and contrast, at most
    cutout: Share = 0.0  # side of a hole, as a share of the picture's
    noise: Amount = 0.0  # standard deviation, of pixel values -1 … 1


class AugmentationsConfig(Section):
    """Augmentation of the pairs for both networks, and of the discriminator's pictures."""

    pairs: AugmentationConfig = AugmentationConfig(flip=0.5, shift=0.0625, colour=0.1)
    discriminator: AugmentationConfig = AugmentationConfig(shift=0.125, colour=0.2)


class TrainingConfig(Section):
    """How long and how fast."""

    steps: Count = 25_000
    batch: Count = 64  # pairs per step, over all workers
    micro_batch: Count | None = None  # pairs at once on each worker; null: all. It saves memory and changes no loss
    lr: Rate = 0.001
    warmup: Natural = 0  # steps over which the rate rises to lr
    cooldown: Share = 0.0  # the last share of the steps, over which the rate falls to zero
    momentum: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # Adam's β1 for the generator; 0.9 where L1 outweighs the adversarial loss
    )
    average_half_life: Amount = 10_000.0  # pictures
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA
    checkpoint_every: Count = 1000  # steps; the held-out pairs are scored at each checkpoint
    keep: Count = 2  # checkpoints to keep
    log_every: Count = 50  # steps
    shuffle_shards: Count = 16  # files of pairs that are shuffled together and held in memory
    evaluated: Count = 256  # the most held-out pairs to score
    metric: Literal["error", "perceptual"] | None = None  # that chooses the best; null: perceptual if it is a loss
    tensorboard: bool = False  # event files below OUTPUT/tensorboard
    wandb: Text | None = None  # project name at Weights & Biases

    @property
    def group(self) -> int:
        """Neighbours in a batch that the discriminator sees as a group; each worker gets whole groups."""
        return next(n for n in (4, 3, 2, 1) if self.batch % n == 0)


class WorkersConfig(Processes):
    """Ray Train's workers; with count 0 or no number the training runs in this process, without Ray."""

    count: Natural | None = None
    max_failures: Natural = 3  # how often the training recovers from a lost worker

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most workers; (0, 0) is without Ray."""
        return (0, 0) if self.count is self.min is self.max is None else super().bounds


class DistillConfig(Section):
    """`p2pz distill`: pairs → a student."""

    pairs: PairsConfig
    image: ImageConfig = ImageConfig()  # size: a power of two; null is the pairs' own
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    losses: LossesConfig = LossesConfig()
    augmentation: AugmentationsConfig = AugmentationsConfig()
    training: TrainingConfig = TrainingConfig()
    export: list[Literal["onnx", "torch"]] = Field(
        default_factory=list
    )  # forms to export the student to after the training
    half: bool = False  # whether the student's weights are saved in half precision
    output: Text
    output_storage_options: dict[str, Any] = Field(default_factory=dict)  # handed to fsspec
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Device = "auto"
    workers: WorkersConfig = WorkersConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _possible(self) -> "DistillConfig":
        if self.image.size is not None:
            check_size(self.image.size)
        groups = self.training.batch // self.training.group
        if self.workers.bounds[1] > groups:
            raise ValueError(
                f"has {self.workers.bounds[1]} workers for a batch of {self.training.batch}, which is split into "
                f"groups of {self.training.group}: set at most {groups} workers, or a larger training.batch"
            )
        if self.training.metric == "perceptual" and self.losses.perceptual_model is None:
            raise ValueError("has training.metric perceptual: name that distance in losses.perceptual_model")
        if not (self.losses.adversarial or self.losses.l1 or (self.losses.perceptual and self.losses.perceptual_model)):
            raise ValueError("has no loss: set losses.adversarial, losses.l1 or losses.perceptual")
        return self

    @property
    def replicas(self) -> WorkersConfig:
        """The workers, under the name that processes have in every job."""
        return self.workers

    @property
    def perceptual(self) -> Perceptual | None:
        """The perceptual distance that is a loss or chooses the best student; None without."""
        used = self.losses.perceptual or self.training.metric == "perceptual"
        return self.losses.perceptual_model if used else None

    @property
    def metric(self) -> str:
        """The held-out score that chooses the best student; lower is better."""
        return self.training.metric or ("perceptual" if self.perceptual else "error")


def check_size(size: tuple[int, int]) -> int:
    """The side in pixels; raises ValueError for a size that no student can have."""
    height, width = size
    if height != width or height & (height - 1) or height < 8:
        raise ValueError(f"image.size is [{height}, {width}]: a student needs a square whose side is a power of two")
    return height
