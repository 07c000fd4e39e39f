"""A section of a configuration, and the plain values that its keys take."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _checked_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: write a value")
    if re.search(r"://[^/@]*:[^/@]*@", text):
        raise ValueError("holds a password, which the run and its logs would repeat: put it into storage_options")
    return text


Text = Annotated[str, AfterValidator(_checked_text)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Device = Literal["auto", "cpu", "cuda"]


class Section(BaseModel):
    """A frozen mapping that accepts only known keys and never converts values to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, serialize_by_alias=True)


def is_set(section: Section, key: str) -> bool:
    """Whether a key has another value than its default."""
    return bool(getattr(section, key) != type(section).model_fields[key].get_default(call_default_factory=True))
