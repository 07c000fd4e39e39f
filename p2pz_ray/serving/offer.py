"""What is served, as the ingress knows it: without any of the models, and without what loads them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from p2pz_ray.serving.config import ServeConfig


@dataclass(frozen=True)
class Taught:
    """An edit that a student makes. student: its number. side: of its pictures. strongest: the largest strength that it
    was taught, None where it knows one alone."""

    student: int
    side: int
    strongest: float | None = None


@dataclass(frozen=True)
class Offer:
    """What is served. It is small: models are named by URI.

    config: with local paths made absolute. size: (H, W) pixels of the model's pictures. students: the edits that
    students make. token: sha256 of what clients must send, None where anybody may call.
    """

    config: ServeConfig
    size: tuple[int, int]
    students: dict[str, Taught]
    token: str | None

    @property
    def model(self) -> str:
        """What clients call the model."""
        return Path(self.config.model.name.rstrip("/")).name

    @property
    def edits(self) -> dict[str, tuple[str, str] | None]:
        """The edits that have a name, each with its two words where it has them: the model's and the students'."""
        of = {
            name: (edit.source, edit.target) if edit.source and edit.target else None
            for name, edit in self.config.offered.items()
        }
        return of | {name: None for name in self.students if name not in of}

    def strength(self, edit: str) -> float:
        """How far an edit goes where a request doesn't say."""
        offered = self.config.offered.get(edit)
        return 1.0 if offered is None else offered.strength

    @property
    def scenes(self) -> bool:
        """Whether clients may have scenes of the miniature drawn."""
        return self.config.model.name == "mini"


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
