"""Locations as people spell them: which are the same, and which lie in another."""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from p2pz_ray.collection.store import Store

MAGIC = re.compile(r"[*?\[]")
"""What makes a name a pattern."""


def unquoted(uri: str) -> str:
    """A `file://` URI as the path that it names, its %20 a space; any other location as it is."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() != "file":
        return uri
    host, slash, path = rest.partition("/")
    return unquote(f"{slash}{path}" if host in ("", "localhost") else rest, errors="surrogateescape")


def lies_inside(inner: Store, outer: Store) -> bool:
    """Whether a location is another one or below it, however either is spelled: by links, `..`, `file://` or another
    name of the same protocol. Of a pattern that goes any deeper (`**`), the folder before it counts; other patterns
    match nothing that a folder inside would hold."""
    if inner.local != outer.local or not _protocols(inner) & _protocols(outer):
        return False
    root = outer.root
    parts = root.split("/")
    magic = next((i for i, part in enumerate(parts) if MAGIC.search(part)), None)
    if magic is not None and not (outer.local and os.path.exists(root)):
        if "**" not in parts:
            return False
        root = "/".join(parts[:magic]) or "/"
    plain = os.path.realpath if inner.local else posixpath.normpath
    return f"{plain(inner.root)}/".startswith(f"{str(plain(root)).rstrip('/')}/")


def _protocols(store: Store) -> set[str]:
    protocol = store.fs.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)
