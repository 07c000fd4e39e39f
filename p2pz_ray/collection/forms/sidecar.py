"""Captions and masks beside pictures: a.png with a.txt or a.json, and a folder of masks by the same names."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable
from typing import Any

from p2pz_ray.collection.partition import Source
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.sorted import Entry
from p2pz_ray.errors import ImageError
from p2pz_ray.storage.failure import FileError, MissingFileError
from p2pz_ray.storage.store import Store

EXTENSIONS = (".txt", ".json")
"""Of captions: plain text, or an object with the caption under the column's name. Their place, from 1, is a source's
`piece`; 0 is no caption."""
_TEXT = 1 << 20  # bytes of a caption's file at most
_MASKS = (".png", ".jpg", ".webp")


def captioned(entries: Iterable[Entry], companions: dict[str, str]) -> list[Source]:
    """The sources of pictures; companions: path → version, of the files beside them that may hold captions."""
    found = []
    for entry in entries:
        stem = posixpath.splitext(entry.path)[0]
        piece, version = 0, 0
        for place, extension in enumerate(EXTENSIONS, 1):
            if not piece and f"{stem}{extension}" in companions:
                digest = hashlib.blake2b(companions[f"{stem}{extension}"].encode(), digest_size=6)
                piece, version = place, int.from_bytes(digest.digest())
        found.append(Source(entry.path, entry.fingerprint, entry.problem, piece, 0, 1, version))
    return found


def caption(store: Store, source: Source, columns: Columns) -> str | None:
    """The caption of a picture that has one. Raises `ImageError` where it can't be read."""
    if not source.piece or columns.caption is None:
        return None
    path = posixpath.splitext(source.path)[0] + EXTENSIONS[source.piece - 1]
    try:
        data = store.read(path, _TEXT)
    except FileError as error:
        raise ImageError(f"Its caption {path!r} can't be used: {error.reason}") from error
    text: Any = data.decode("utf-8-sig", "backslashreplace")
    if path.endswith(".json"):
        try:
            about = json.loads(text)
        except ValueError as error:
            raise ImageError(f"Its caption {path!r} is not valid JSON ({error}).") from error
        text = about.get(columns.caption) if isinstance(about, dict) else None
    return " ".join(text.split()) or None if isinstance(text, str) else None


def mask(masks: Store, path: str, max_bytes: int) -> bytes | None:
    """The mask of the picture at `path`: of that name, or with another extension; None where there is none.

    Raises `ImageError` where it can't be read.
    """
    stem, own = posixpath.splitext(path)
    for extension in dict.fromkeys((own, *_MASKS)):
        try:
            return masks.read(f"{stem}{extension}", max_bytes)
        except MissingFileError:
            continue
        except FileError as error:
            raise ImageError(f"Its mask can't be used: {error.reason}") from error
    return None
