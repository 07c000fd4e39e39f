"""Whether one location is inside another."""

from __future__ import annotations

import os
import posixpath

from p2pz_ray.storage.store import Store
from p2pz_ray.storage.uri import MAGIC


def lies_inside(inner: Store, outer: Store) -> bool:
    """Whether `inner` is `outer` or below it, even if they are written differently: with links, `..`, `file://` or
    another name of the same protocol. For a pattern with `**` the folder before it counts; other patterns match nothing
    in deeper folders."""
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
