"""A pair on its way to another project."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Side = Literal["train", "test"]


@dataclass(frozen=True)
class Kept:
    """A pair to export. prompt: what is to be done, or what the edited picture shows; source, edited: encoded.

    scores: what is known of it.
    """

    id: str
    edit: str
    prompt: str
    source: bytes
    edited: bytes
    caption: str | None = None
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that is safe in any file system and in a tar, has no dot, and is no other pair's."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.id}-{self.edit}")[-80:].lstrip("-")
        digest = hashlib.sha256(f"{self.id}\0{self.edit}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{plain}-{digest}"


def half(id: str, test_share: float) -> Side:
    """Where an image's pairs go: by its id alone, so that all edits of one image stand on one side."""
    drawn = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "test" if drawn < test_share else "train"


def extension(data: bytes) -> str:
    """Of a picture that a run holds."""
    return "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpg"
