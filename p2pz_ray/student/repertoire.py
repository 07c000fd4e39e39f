"""The edits that a student knows by name, each with its direction and the strengths it was taught."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pz_ray.errors import ConfigError

Parts = Mapping[str, float]
"""Edits made together in one picture: name → strength."""


@dataclass(frozen=True)
class Skill:
    """One edit. direction: of length 1, empty for a student of one edit at one strength. strongest: the largest
    strength that it was taught."""

    direction: tuple[float, ...] = ()
    strongest: float = 1.0


class Repertoire:
    """Edits by their names. An empty repertoire stands for one edit without a recorded name."""

    def __init__(self, skills: Mapping[str, Skill] | None = None) -> None:
        self.skills = dict(skills or {})

    @property
    def width(self) -> int:
        """Numbers in a direction; 0 where there is one edit at one strength."""
        return max((len(skill.direction) for skill in self.skills.values()), default=0)

    def __str__(self) -> str:
        return ", ".join(self.skills) or "an edit without a name"

    def parts(self, edit: str | Parts | None = None, strength: float = 1.0) -> Parts:
        """The requested edits, each strength multiplied by `strength`. edit: None is the student's only one.

        Raises ConfigError for an edit or a strength that the student wasn't taught.
        """
        if edit is None:
            if len(self.skills) > 1:
                raise ConfigError(f"The student knows {self}: say which edit.")
            edit = next(iter(self.skills), "")
        parts = {edit: 1.0} if isinstance(edit, str) else dict(edit)
        parts = {name: float(share) * float(strength) for name, share in parts.items()}
        for name, requested in parts.items():
            skill = self.skills.get(name, None if self.skills else Skill())
            if skill is None:
                raise ConfigError(f"The student has no edit {name!r}: it knows {self}.")
            if not self.width:
                if len(parts) > 1 or requested != 1:
                    raise ConfigError(f"The student makes only {self}, at strength 1.")
            elif not 0 <= requested <= skill.strongest or math.isnan(requested):
                raise ConfigError(
                    f"The student was taught {name} at strengths from 0 to {skill.strongest:g}, not at {requested:g}."
                )
        if not parts:
            raise ConfigError(f"The student is asked for no edit: it knows {self}.")
        return parts

    def direction(self, parts: Parts) -> list[float]:
        """Σ strength · direction, `width` numbers."""
        total = [0.0] * self.width
        for name, strength in parts.items():
            if self.width:
                total = [a + strength * b for a, b in zip(total, self.skills[name].direction, strict=True)]
        return total

    def to_json(self) -> dict[str, Any]:
        return {
            name: {"direction": list(skill.direction), "strongest": skill.strongest} for name, skill in self.items()
        }

    def items(self) -> list[tuple[str, Skill]]:
        return list(self.skills.items())

    @classmethod
    def from_json(cls, edits: Mapping[str, Any]) -> "Repertoire":
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
        repertoire = cls(
            {
                name: Skill(tuple(float(x) for x in entry["direction"]), float(entry["strongest"]))
                for name, entry in edits.items()
            }
        )
        if any(len(skill.direction) != repertoire.width for skill in repertoire.skills.values()):
            raise ValueError("its directions have different widths")
        if len(repertoire.skills) > 1 and not repertoire.width:
            raise ValueError("it knows several edits without a direction")
        return repertoire
