"""The local disk, which unlike object stores has links, pipes, folders and half-written files."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from p2pz_ray.storage.failure import shown

TEMPORARY = ".tmp-"
"""Prefix of the names of files that are still being written."""
SWEPT_TRIES = 5


def info(status: os.stat_result) -> dict[str, Any]:
    """A local file's state, in the form of fsspec's `info`."""
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}


def irregular(mode: int) -> str | None:
    """Why a file with this `st_mode` can't be read, or None if it can."""
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
    _put(full, data, os.replace)


def create(full: str, data: bytes) -> None:
    """Like `replace`, but raises FileExistsError if there is a file of that name, even one created at the same
    moment."""
    _put(full, data, _link)


def links(full: str) -> bool:
    """Whether the disk of this existing file has hard links, without which `create` can only look before it renames."""
    other = os.path.join(os.path.dirname(full), f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        os.link(full, other)
    except OSError:
        return False
    os.remove(other)
    return True


def _link(temporary: str, full: str) -> None:
    try:
        os.link(temporary, full)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(full):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), full) from None
        os.rename(temporary, full)


_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def _put(full: str, data: bytes, place: Callable[[str, str], None]) -> None:
    folder = os.path.dirname(full)
    os.makedirs(folder, exist_ok=True)
    for tries_left in reversed(range(SWEPT_TRIES)):
        temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            place(temporary, full)
            break
        except FileNotFoundError:
            # Another driver that is just finishing may have swept it, taking it for a dead writer's.
            if os.path.lexists(temporary) or not tries_left or not os.path.isdir(folder):
                raise
        finally:
            with suppress(FileNotFoundError):  # it is gone once it was renamed
                os.remove(temporary)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
