"""The files below a folder: every wanted name once, and why it can't be read, if so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from fsspec.utils import glob_translate

from p2pz_ray.collection.sorted import Entry
from p2pz_ray.errors import ConfigError
from p2pz_ray.storage.failure import FileError, shown
from p2pz_ray.storage.local import info, irregular
from p2pz_ray.storage.store import Store
from p2pz_ray.storage.version import fingerprint

_MAGIC = re.compile(r"[*?\[]")


def locate(store: Store) -> tuple[Store, str | None]:
    """Split a user's URI into the folder that paths are relative to, and a pattern of the wanted files below it.

    A folder has no pattern. A single file's pattern is its name. A glob (`*`, `**`, `?`, `[…]`) keeps its leading
    parts without magic as the folder. A name that exists is never taken for a glob.

    Raises `ConfigError` if there is nothing at the URI, or it can't be read.
    """
    try:
        if store.is_folder(""):
            return store, None
        exists = store.exists("")
    except FileError as error:
        raise ConfigError(str(error)) from error
    parts = store.root.split("/")
    if exists:
        return store.rebased("/".join(parts[:-1]) or "/"), re.sub(_MAGIC, r"[\g<0>]", parts[-1])
    plain = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), None)
    if plain is None:
        raise ConfigError(f"{shown(store.uri)} doesn't exist: give a folder of images, or Parquet or Arrow files.")
    return store.rebased("/".join(parts[:plain]) or "/"), "/".join(parts[plain:])


def walk(store: Store, pattern: str | None, wanted: Callable[[str], bool]) -> Iterator[Entry | None]:
    """Every wanted name below the store's folder that matches the pattern, in no order; None for each name that was
    left out.

    Names that begin with a dot, and all below them, are left out. On local disks whatever is named like a wanted
    file becomes an entry, also a folder (which is walked too), a dangling link or a device; so does a folder that
    can't be listed. Links to folders are followed once everything else is walked, and never to a folder
    seen before, so a loop of links ends.
    """
    fits = re.compile(glob_translate(pattern)).match if pattern else lambda _: True
    depth = None if pattern is None or "**" in pattern else pattern.count("/") + 1
    entries = _walk_local(store, wanted, depth) if store.local else _walk_remote(store, wanted, depth)
    return (entry for entry in entries if entry is None or fits(entry.path))


def _walk_remote(store: Store, wanted: Callable[[str], bool], depth: int | None) -> Iterator[Entry | None]:
    prefix = store.full("").rstrip("/") + "/"
    for path, status in store.walk(depth):
        relative = path.removeprefix(prefix)  # a key may begin with "/" below its folder
        hidden = any(part.startswith(".") for part in relative.split("/"))
        yield Entry(relative, fingerprint(status)) if wanted(relative) and not hidden else None


def _walk_local(store: Store, wanted: Callable[[str], bool], depth: int | None) -> Iterator[Entry | None]:
    folders = [""]
    linked: list[str] = []
    seen: set[tuple[int, int]] = set()
    while folders or linked:
        # Links are followed last, so that files that can be reached without one keep that path.
        folder = folders.pop() if folders else linked.pop(0)
        try:
            status = os.stat(store.full(folder))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(store.full(folder)) as scan:
                children = sorted(scan, key=lambda child: child.name)
        except OSError as error:
            if not folder:
                raise ConfigError(f"{shown(store.uri)} can't be listed: {error.strerror}.") from error
            yield Entry(folder, "", f"This folder can't be listed ({error.strerror}).")
            continue
        below: list[str] = []
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            if child.name.startswith("."):
                yield None
                continue
            is_folder = _is_folder(child)
            if is_folder and (depth is None or path.count("/") + 1 < depth):
                (linked if child.is_symlink() else below).append(path)
            if wanted(path):
                yield _examined(store, path)
            elif not is_folder:
                yield None
        folders += reversed(below)


def _examined(store: Store, path: str) -> Entry:
    try:
        status = store.stat(path)
    except FileError as error:
        return Entry(path, "", error.reason)
    problem = irregular(status.st_mode)
    return Entry(path, "" if problem else fingerprint(info(status)), problem)


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link that leads back to itself
        return False
