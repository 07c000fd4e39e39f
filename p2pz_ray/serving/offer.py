"""What is served, as the ingress knows it: without any of the models, and without what loads them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from p2pz_ray.serving.config import ServeConfig


@dataclass(frozen=True)
class Offer:
    """What is served. It is small: models are named by URI.

    config: with local paths made absolute. size: (H, W) pixels of the model's pictures. students: the edits that
    students make, and the side of their pictures. token: sha256 of what clients must send, None where anybody may call.
    """

    config: ServeConfig
    size: tuple[int, int]
    students: dict[str, int]
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

    @property
    def scenes(self) -> bool:
        """Whether clients may have scenes of the miniature drawn."""
        return self.config.model.name == "mini"


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
