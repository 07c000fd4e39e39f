"""`p2pz serve`: what is offered, by how many replicas, to whom."""

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from p2pz_ray.config import (
    Amount,
    CaptionsConfig,
    CheckpointConfig,
    Count,
    Device,
    EditConfig,
    ImageConfig,
    InversionConfig,
    Natural,
    Processes,
    RayConfig,
    Section,
    Text,
    well_named,
)
from p2pz_ray.editing.settings import GuidanceSettings

MINIATURE = {
    "cat2dog": ("cat", "dog"),
    "dog2cat": ("dog", "cat"),
    "dog2fox": ("dog", "fox"),
    "horse2zebra": ("horse", "zebra"),
    "cat2glasses": ("cat", "cat with glasses"),
    "cat2hat": ("cat", "cat with a hat"),
    "sketch2oil": ("sketch of a cat", "oil pastel of a cat"),
}
"""What is offered where the model is the miniature and the configuration names no edit."""


def _reproducible(edits: dict[str, EditConfig]) -> dict[str, EditConfig]:
    for name, edit in edits.items():
        if edit.sentences.endpoint is not None or edit.sentences.text_model is not None:
            raise ValueError(
                f"has a language model write the sentences of {name}, which each replica would have done anew: "
                "make the direction with p2pz direction, and name its file as direction"
            )
    return well_named(edits)


class WordsConfig(Section):
    """Edits between any two words, beside those that have a name."""

    allowed: bool = True
    count: Count = 200  # sentences a side: fewer than an edit with a name has, so that nobody waits
    kept: Count = 256  # directions that a replica remembers


class BatchConfig(Section):
    """Requests of one kind that an engine takes at once: those that are waiting when it becomes free."""

    size: Count = 8
    wait: Amount = 0.005  # seconds that an idle engine waits for more


class LimitsConfig(Section):
    """What one request, or one client, may ask for."""

    body: Count = 24 << 20  # bytes
    pictures: Count = 8  # edited pictures of one request
    steps: Count = 200
    queue: Natural = 64  # requests waiting for an engine; more are answered 503
    per_client: Count | None = 64  # requests of one address under way; more are answered 429. null is no limit
    timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds


class BulkConfig(Section):
    """Whole collections, which assistants may send to a cluster."""

    address: Text  # of the cluster's dashboard
    input: Text  # the folder, or URI, below which collections lie
    output: Text  # the folder, or URI, below which runs are written


class ServeConfig(Section):
    """The service."""

    model: CheckpointConfig = CheckpointConfig(name="mini")
    students: list[Text] = Field(default_factory=list)  # folders that `p2pz distill` wrote, or "mini"
    edits: Annotated[dict[str, EditConfig], AfterValidator(_reproducible)] = Field(default_factory=dict)
    words: WordsConfig = WordsConfig()
    image: ImageConfig = ImageConfig()
    captions: CaptionsConfig = CaptionsConfig()
    inversion: InversionConfig = InversionConfig()
    guidance: GuidanceSettings = GuidanceSettings()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    checkpointing: bool = False
    device: Device = "auto"
    replicas: Processes = Processes()  # of the model; from min to max by the number of requests
    batch: BatchConfig = BatchConfig()
    student_replicas: Processes = Processes()
    student_batch: BatchConfig = BatchConfig(size=16, wait=0.002)
    ingresses: Count = 1  # processes that answer HTTP
    limits: LimitsConfig = LimitsConfig()
    bulk: BulkConfig | None = None  # null: assistants edit single pictures alone
    host: Text = "127.0.0.1"  # the address to listen at
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    hosts: list[Text] = Field(default_factory=list)  # more names by which clients may call it; "*" is any
    token_env: Text | None = None  # the variable that holds the token which clients must send
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _offers(self) -> Self:
        if not (self.edits or self.students or self.words.allowed) and self.model.name != "mini":
            raise ValueError("edits is empty and words.allowed is false, so nothing is offered: name an edit")
        if self.captions.column != CaptionsConfig().column:
            raise ValueError("captions.column is of a collection: a request brings its caption itself, so leave it out")
        if self.inversion.cache is not None:
            raise ValueError("inversion.cache keeps pictures, which a service does not: leave it out")
        return self

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Self:
        if not is_loopback(self.host) and self.token_env is None:
            raise ValueError(
                f"host {self.host} can be reached from other machines, so clients must send a token: put one into an "
                "environment variable and name it as token_env, or leave host out"
            )
        return self

    @property
    def offered(self) -> dict[str, EditConfig]:
        """The edits that have a name."""
        if self.edits or self.model.name != "mini":
            return self.edits
        return {name: EditConfig(source=source, target=target) for name, (source, target) in MINIATURE.items()}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
