"""The body of a request: one picture and its edits, as the API takes them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from p2pz_ray.config.section import Amount, Natural, Section
from p2pz_ray.serving.web.prompt import LONGEST

Word = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"\S")]
Finite = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Base64 = Annotated[str, Field(description="A PNG, JPEG, WebP … in base64, or a data: URI. Other URIs are refused.")]


class PartBody(Section):
    """An edit by its name, or from one word to another."""

    edit: Word | None = None
    source: Word | None = None
    target: Word | None = None
    strength: Finite | None = None

    @model_validator(mode="after")
    def _named(self) -> "PartBody":
        if (self.edit is None) == (self.source is None or self.target is None):
            raise ValueError("names no edit: give it edit, a name, or source and target, two words")
        return self


class EditBody(Section):
    """An edit by its name, from one word to another, or composed of several such parts."""

    edit: Word | None = None
    source: Word | None = None
    target: Word | None = None
    strength: Finite | None = None
    compose: Annotated[list[PartBody], Field(min_length=2, max_length=8)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "EditBody":
        others = (self.edit, self.source, self.target, self.strength)
        if self.compose is None:
            self.parts  # noqa: B018, which checks them
        elif any(value is not None for value in others):
            raise ValueError(
                "has compose together with edit, source, target or strength: give only compose, or leave it out"
            )
        return self

    @property
    def parts(self) -> list[PartBody]:
        if self.compose is not None:
            return self.compose
        return [PartBody(edit=self.edit, source=self.source, target=self.target, strength=self.strength)]


class EditRequest(Section):
    """One picture and its edits: an edited picture for each of `edits`."""

    image: Base64
    edits: Annotated[list[Word | EditBody], Field(min_length=1, max_length=64)]
    model: str | None = Field(None, description="A model that GET /v1/models lists. Null is the diffusion model.")
    mask: Base64 | None = Field(None, description="White where the edit may go; the rest keeps its pixels.")
    caption: Annotated[str, Field(max_length=1000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    id: Annotated[str, Field(max_length=1000)] = Field(
        "", description="With the same seed and id, `p2pz translate` makes the same picture."
    )
    steps: Annotated[int, Field(ge=2, le=1000)] | None = None
    lambda_xa: Amount | None = None
    cfg: Amount | None = None
    negative: Annotated[str, Field(max_length=1000)] | None = None
    stream: bool = Field(False, description="Answer by server-sent events: progress, then done or error.")
    preview_every: Natural = Field(0, description="With stream: send a preview every so many steps; 0 is none.")
    source: bool = Field(False, description="Also answer with the picture as the model saw it.")
    format: Literal["png", "jpeg", "webp"] = "png"
