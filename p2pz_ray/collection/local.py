"""The local disk, which has what no object store has: links, pipes, folders and files half-written."""

from __future__ import annotations

import os
import stat
import uuid
from typing import Any

from p2pz_ray.collection.failure import shown

TEMPORARY = ".tmp-"
"""How the name of a file still being written begins."""


def info(status: os.stat_result) -> dict[str, Any]:
    """A local file's state in the words of fsspec's `info`."""
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}


def irregular(mode: int) -> str | None:
    """Why a file of this `st_mode` can't be read as one, or None if it can."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "It is a folder, not a file."
    kinds = ((stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISLNK, "link"))
    return f"It is a {next((word for test, word in kinds if test(mode)), 'device')}, not a file."


def missing(full: str) -> str:
    """Why a local path leads to nothing: no file, or a link to no file."""
    if os.path.islink(full):
        return f"It is a link to {shown(os.readlink(full))}, which doesn't exist."
    return "There is no such file."


def replace(full: str, data: bytes) -> None:
    """Write beside the final name and rename over it, with both the file and its name on disk before returning."""
    folder = os.path.dirname(full)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, full)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
