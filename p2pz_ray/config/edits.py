"""The edits: two words, a direction file, or several at once, each at its strength."""

import re
from typing import Annotated

from pydantic import Field, model_validator

from p2pz_ray.config.section import Count, Section, Text
from p2pz_ray.config.sentences import SentencesConfig


class EditConfig(Section):
    """One edit: from two words, from a direction file, or of other edits at once.

    With several strengths, `strength: [0.5, 1]`, a run makes one edit for each: NAME-50 and NAME-100.
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
            raise ValueError("has a direction and words: keep only direction, or only source and target")
        if self.compose is not None and (self.direction is not None or any(words)):
            raise ValueError("has compose and also words or a direction: give only compose, or leave it out")
        if self.direction is None and self.compose is None and not all(words):
            raise ValueError("names no edit: give it source and target, two words, or direction, a file")
        return self


def percent(strength: float) -> str:
    """The suffix of an edit's name if it has several strengths."""
    return f"-{100 * strength:.0f}"


def base_name(name: str, strength: float) -> str:
    """An edit's name without the suffix for this strength."""
    return name.removesuffix(percent(strength)) or name


def checked_names(edits: dict[str, EditConfig]) -> dict[str, EditConfig]:
    """The edits. Raises ValueError if a name is invalid or an edit composes others that aren't among them."""
    for name in edits:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ValueError(f"names an edit {name!r}: use only letters, digits, '_' and '-'")
        for part in edits[name].compose or []:
            if part not in edits or edits[part].compose is not None:
                raise ValueError(
                    f"composes {name} from {part!r}: name other edits that it has and that compose nothing"
                )
    return edits
