"""A file of a remote storage, read by ranges."""

from __future__ import annotations

import io
from typing import Any, Protocol

from p2pz_ray.storage.failure import StorageError
from p2pz_ray.storage.version import planned_size


class Ranged(Protocol):
    """The storage that it lies in, as a `Store` is one."""

    def size(self, path: str) -> int: ...
    def read_range(self, path: str, start: int, stop: int, version: str = "") -> bytes: ...


class RemoteFile(io.BufferedReader):
    """A remote file open for reading.

    `failure` is the error that reading it ended with, for callers whose libraries turn it into one of their own.
    """

    def __init__(self, store: Ranged, path: str, version: str = "") -> None:
        self._ranges = RangeReader(store, path, version)
        super().__init__(self._ranges, 1 << 16)

    @property
    def failure(self) -> StorageError | None:
        """The storage's error, or None while there was none."""
        return self._ranges.failure


class Positioned(io.RawIOBase):
    """A stored file of known size and a position in it, for readers that fetch its bytes by ranges. The size is asked
    for where no version tells it."""

    def __init__(self, store: Ranged, path: str, version: str = "") -> None:
        self._store, self._path, self._version, self._position = store, path, version, 0
        size = planned_size(version)
        self._size = store.size(path) if size is None else size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position


class RangeReader(Positioned):
    """A remote file read by ranges: it keeps no state that a failed request could leave wrong."""

    def __init__(self, store: Ranged, path: str, version: str = "") -> None:
        super().__init__(store, path, version)
        self.failure: StorageError | None = None

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._position + len(buffer))
        if stop <= self._position:
            return 0
        try:
            data = self._store.read_range(self._path, self._position, stop, self._version)
        except StorageError as error:
            self.failure = error
            raise
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
