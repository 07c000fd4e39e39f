"""A pair to export to another project."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Side = Literal["train", "test"]


@dataclass(frozen=True)
class ExportPair:
    """A pair to export. prompt: an instruction, or what the edited picture shows. source, edited: encoded pictures.
    scores: column → value.
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
        """A unique name without a dot, safe in any file system and in a tar."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.id}-{self.edit}")[-80:].lstrip("-")
        digest = hashlib.sha256(f"{self.id}\0{self.edit}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{plain}-{digest}"


def side_of(id: str, test_share: float) -> Side:
    """The side of an image's pairs, which depends only on its id, so that all edits of one image are on one side."""
    position = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "test" if position < test_share else "train"


def extension(data: bytes) -> str:
    """The file extension of a picture from a run."""
    return "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpg"
