"""What a service offers, in the form that the ingress needs: no models, and no code that loads them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from p2pz_ray.config.serve import ServeConfig


@dataclass(frozen=True)
class StudentEdit:
    """An edit that a student makes. student: the student's number. side: of its pictures, in pixels. strongest: the
    largest strength that it was trained for, None if it has only one."""

    student: int
    side: int
    strongest: float | None = None


@dataclass(frozen=True)
class Offer:
    """What a service offers. It is small: models are named by URI.

    config: with local paths made absolute. size: (H, W) pixels of the model's pictures. students: the edits that
    students make. token: sha256 of the token that clients must send, None if anybody may call.
    """

    config: ServeConfig
    size: tuple[int, int]
    students: dict[str, StudentEdit]
    token: str | None

    @property
    def model(self) -> str:
        """The model's name for clients."""
        return Path(self.config.model.name.rstrip("/")).name

    @property
    def edits(self) -> dict[str, tuple[str, str] | None]:
        """The named edits of the model and the students, each with its two words, or None where it has none."""
        edits = {
            name: (edit.source, edit.target) if edit.source and edit.target else None
            for name, edit in self.config.offered.items()
        }
        return edits | {name: None for name in self.students if name not in edits}

    def strength(self, edit: str) -> float:
        """An edit's strength where the request gives none."""
        offered = self.config.offered.get(edit)
        return 1.0 if offered is None else offered.strength

    @property
    def scenes(self) -> bool:
        """Whether clients may ask for scenes of the miniature."""
        return self.config.model.name == "mini"


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
