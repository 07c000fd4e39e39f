"""Pictures embedded in a page, as thumbnails if they are large."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from p2pz_ray.picture.codec import FORMATS

LARGEST_SIDE = 384
SMALL_SIDE = 128
"""Pictures up to this side are enlarged with hard pixel edges, so that every pixel shows exactly."""
_KEPT = {"PNG": "image/png", "WEBP": "image/webp", "JPEG": "image/jpeg"}
_KEPT_BYTES = 40_000


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its width and height in pixels."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        return max(self.width, self.height) <= SMALL_SIDE


def picture(data: bytes | None) -> Picture | None:
    """An encoded picture, unchanged if it is small, else a thumbnail; None if it can't be shown."""
    if not data:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            kind = _KEPT.get(opened.format or "")
            if kind and max(opened.size) <= LARGEST_SIDE and len(data) <= _KEPT_BYTES:
                opened.load()
                return Picture(_uri(kind, data), *opened.size)
            thumbnail = opened.convert("RGB")
            thumbnail.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    except Exception:  # decoders fail on broken files with nearly every kind of exception
        return None
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=82)
    return Picture(_uri("image/webp", buffer.getvalue()), *thumbnail.size)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
