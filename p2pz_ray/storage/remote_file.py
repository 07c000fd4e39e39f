"""A file in remote storage, read by ranges of bytes."""

from __future__ import annotations

import io
from typing import Any, Protocol

from p2pz_ray.storage.failure import StorageError
from p2pz_ray.storage.version import planned_size


class Ranged(Protocol):
    """The storage that the file is in, such as a `Store`."""

    def size(self, path: str) -> int: ...
    def read_range(self, path: str, start: int, stop: int, version: str = "") -> bytes: ...


class RemoteFile(io.BufferedReader):
    """A remote file open for reading.

    `failure` is the storage's error, for callers whose libraries replace it with an error of their own.
    """

    def __init__(self, store: Ranged, path: str, version: str = "") -> None:
        self._ranges = RangeReader(store, path, version)
        super().__init__(self._ranges, 1 << 16)

    @property
    def failure(self) -> StorageError | None:
        """The storage's error, or None."""
        return self._ranges.failure


class Positioned(io.RawIOBase):
    """A stored file's size and the current position, for readers that fetch ranges of bytes. The storage is asked for
    the size unless the version includes it."""

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
    """A remote file read by ranges. It keeps no state that a failed request could corrupt."""

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
