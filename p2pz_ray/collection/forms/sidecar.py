"""Captions and masks in separate files: a.txt or a.json next to a.png, and a folder of masks with the same names."""

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
"""The extensions of caption files: plain text, or an object with the caption under the column's name. The extension's
position in this list, from 1, is a source's `piece`; 0 means no caption."""
_TEXT = 1 << 20  # the largest caption file, in bytes
_MASKS = (".png", ".jpg", ".webp")


def sources(entries: Iterable[Entry], companions: dict[str, str]) -> list[Source]:
    """The sources of pictures. companions: path → version of the files next to them that may hold captions."""
    sources = []
    for entry in entries:
        stem = posixpath.splitext(entry.path)[0]
        piece, version = 0, 0
        for position, extension in enumerate(EXTENSIONS, 1):
            if not piece and f"{stem}{extension}" in companions:
                digest = hashlib.blake2b(companions[f"{stem}{extension}"].encode(), digest_size=6)
                piece, version = position, int.from_bytes(digest.digest())
        sources.append(Source(entry.path, entry.fingerprint, entry.problem, piece, 0, 1, version))
    return sources


def caption(store: Store, source: Source, columns: Columns) -> str | None:
    """The caption of a picture, or None if it has none. Raises `ImageError` if it can't be read."""
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
            content = json.loads(text)
        except ValueError as error:
            raise ImageError(f"Its caption {path!r} is not valid JSON ({error}).") from error
        text = content.get(columns.caption) if isinstance(content, dict) else None
    return " ".join(text.split()) or None if isinstance(text, str) else None


def mask(masks: Store, path: str, max_bytes: int) -> bytes | None:
    """The mask of the picture at `path`, which has the same name or another extension; None if there is none.

    Raises `ImageError` if it can't be read.
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
