"""The configuration of `p2pz serve`: the edits on offer, the replicas, and who may call."""

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from p2pz_ray.config.edits import EditConfig, checked_names
from p2pz_ray.config.engine import InversionConfig
from p2pz_ray.config.input import CaptionsConfig, ImageConfig
from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.config.processes import Processes, RayConfig
from p2pz_ray.config.section import Amount, Count, Device, Natural, Section, Text
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
"""The edits on offer where the model is the miniature and the configuration names none."""


def _reproducible(edits: dict[str, EditConfig]) -> dict[str, EditConfig]:
    for name, edit in edits.items():
        if edit.sentences.endpoint is not None or edit.sentences.text_model is not None:
            raise ValueError(
                f"has a language model write the sentences of {name}, and each replica would get other sentences: "
                "make the direction with p2pz direction, and name its file as direction"
            )
    return checked_names(edits)


class WordsConfig(Section):
    """Edits between any two words, in addition to the named ones."""

    allowed: bool = True
    count: Count = 200  # sentences per word: fewer than for a named edit, so that nobody waits long
    kept: Count = 256  # directions that a replica remembers


class BatchConfig(Section):
    """Requests of one kind that an engine answers as one batch: those that wait when it becomes free."""

    size: Count = 8
    wait: Amount = 0.005  # seconds that an idle engine waits for more


class LimitsConfig(Section):
    """Limits of one request, or of one client."""

    body: Count = 24 << 20  # bytes of one request
    pictures: Count = 8  # edited pictures per request
    steps: Count = 200
    queue: Natural = 64  # requests that may wait for an engine; further ones are answered 503
    per_client: Count | None = 64  # concurrent requests per address; further ones are answered 429. null: no limit
    timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds


class BulkConfig(Section):
    """Whole collections that assistants may send to a cluster."""

    address: Text  # address of the cluster's dashboard
    input: Text  # folder or URI with the collections
    output: Text  # folder or URI for the runs


class ServeConfig(Section):
    """The service."""

    model: CheckpointConfig = CheckpointConfig(name="mini")
    students: list[Text] = Field(default_factory=list)  # folders that `p2pz distill` wrote, or "mini", the default's
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
    replicas: Processes = Processes()  # of the model; between min and max, by the number of requests
    batch: BatchConfig = BatchConfig()
    student_replicas: Processes = Processes()
    student_batch: BatchConfig = BatchConfig(size=16, wait=0.002)
    ingresses: Count = 1  # processes that answer HTTP
    limits: LimitsConfig = LimitsConfig()
    bulk: BulkConfig | None = None  # null: assistants edit only single pictures
    host: Text = "127.0.0.1"  # the address to listen on
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    hosts: list[Text] = Field(default_factory=list)  # further host names that clients may use; "*" is any
    token_env: Text | None = None  # environment variable with the token that clients must send
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _offers(self) -> Self:
        if not (self.edits or self.students or self.words.allowed) and self.model.name != "mini":
            raise ValueError("edits is empty and words.allowed is false, so nothing is offered: name an edit")
        if self.captions.column != CaptionsConfig().column:
            raise ValueError(
                "captions.column names a collection's column, but a request has its own caption: leave it out"
            )
        if self.inversion.cache is not None:
            raise ValueError("inversion.cache keeps pictures, and a service keeps none: leave it out")
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

    @property
    def student_uris(self) -> list[str]:
        """The students that are served: the miniature's own, where nothing else is configured."""
        if self.students or self.edits or self.model.name != "mini":
            return self.students
        return ["mini"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
