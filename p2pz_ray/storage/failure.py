"""The errors of storage, and their wording."""

from __future__ import annotations

from typing import Any

from p2pz_ray.errors import P2PZError


class StorageError(P2PZError):
    """The storage as a whole failed: an outage, no credentials, a full disk."""


class FileError(StorageError):
    """This one file can't be used, and asking again won't help: it is missing, forbidden, a folder, too large.

    `reason` is the sentence without the file's name, for an error row that carries the name already.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{shown(name)}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.reason)


class MissingFileError(FileError):
    """There is no such file."""


class TakenNameError(FileError):
    """There is already a file of this name."""


class ChangedFileError(FileError):
    """The file has changed since it was planned."""

    def __init__(self, name: str, reason: str = "It has changed since the run was begun.") -> None:
        super().__init__(name, reason)


def shown(name: str) -> str:
    """A name for a one-line message: unprintable characters and invalid UTF-8 are backslash-escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
