"""All access to storage: a folder at any fsspec URI.

Nothing else in the project opens files of a collection or a run, so every guarantee about storage is kept here: no
reader sees a half-written file, a named pipe never hangs a reader, calls are repeated during short outages, and every
failure is reported in one sentence.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem

from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage import local
from p2pz_ray.storage.failure import (
    ChangedFileError,
    FileError,
    MissingFileError,
    StorageError,
    TakenNameError,
    shown,
)
from p2pz_ray.storage.local import TEMPORARY, info, irregular, missing
from p2pz_ray.storage.remote_file import RemoteFile
from p2pz_ray.storage.s3 import of_version
from p2pz_ray.storage.uri import unquoted
from p2pz_ray.storage.version import fingerprint, planned_size

T = TypeVar("T")

_END = 64 * 2**10

ATTEMPTS = 4
"""Attempts at a call of remote storage before it counts as failed."""
FIRST_PAUSE = 0.25
"""Seconds before the second attempt, plus or minus half; doubled before each further one."""


class Store:
    """A folder at a local path or any fsspec URI (`file://`, `s3://`, `gs://`, `memory://`, …).

    Paths given to the methods are relative to the folder, with "/" between their parts; "" is the folder's URI
    itself. Methods raise `FileError` for what is wrong with one file and `StorageError` for what is wrong with
    the storage. Instances can be pickled.

    Raises `ConfigError` if the URI's protocol is unknown or its package isn't installed.
    """

    def __init__(self, uri: str, storage_options: dict[str, Any] | None = None) -> None:
        if not uri:
            raise ConfigError("The URI is empty: give a local folder or a URI such as s3://bucket/folder.")
        self.uri = uri
        try:
            self.fs, root = fsspec.core.url_to_fs(os.path.expanduser(unquoted(uri)), **(storage_options or {}))
        except ImportError as error:
            raise ConfigError(f"{uri} needs a package that isn't installed ({error}).") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{uri} can't be used as a storage location ({first_line(error)}).") from error
        self.local = isinstance(self.fs, LocalFileSystem)
        self.root: str = root

    def rebased(self, root: str) -> Store:
        """The same storage with another root folder, given as the file system's path."""
        other = copy.copy(self)
        other.root = root
        other.uri = root if self.local else str(self.fs.unstrip_protocol(root))
        return other

    def name(self, path: str) -> str:
        """The file's full name, for messages."""
        return f"{self.uri.rstrip('/')}/{path}" if path else self.uri

    def full(self, path: str) -> str:
        """The file's path in fsspec's file system."""
        if self.local:
            return os.path.join(self.root, path) if path else self.root
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def read(self, path: str, max_bytes: int | None = None, version: str = "") -> bytes:
        """The whole file; `FileError` if it has more than `max_bytes`.

        version: its `fingerprint` when it was planned. With it one request is enough, and a changed file raises
        `ChangedFileError`: S3 compares the version itself, elsewhere the sizes are compared.
        """
        planned = planned_size(version)
        if self.local:
            with self._open_local(path) as file:
                size = os.fstat(file.fileno()).st_size
                self._check_size(path, size, max_bytes)
                if planned not in (None, size):
                    raise ChangedFileError(self.name(path))
                return self._attempt(path, "read", file.read)
        if planned is not None:
            self._check_size(path, planned, max_bytes)
            limit = None if self.compares else planned + 1
            data = self._attempt(path, "read", lambda: self._get(path, 0, limit, version.partition("-")[2]))
            if len(data) != planned:
                raise ChangedFileError(self.name(path))
            return data
        if max_bytes is not None:
            self._check_size(path, self.size(path), max_bytes)
        return self._attempt(path, "read", lambda: cast(bytes, self.fs.cat_file(self.full(path))))

    def _get(self, path: str, start: int, stop: int | None, etag: str) -> bytes:
        """Bytes of a remote file, fewer if it is shorter; on S3 only of the version with this ETag."""
        if self.compares and etag:
            return cast(bytes, sync(self.fs.loop, of_version, self.fs, self.full(path), etag, start, stop))
        return cast(bytes, self.fs.cat_file(self.full(path), start=start, end=stop))

    def write(self, path: str, data: bytes) -> None:
        """Write the whole file, replacing any other; no reader ever sees part of it."""
        if self.local:
            self._attempt(path, "written", lambda: local.replace(self.full(path), data))
        else:
            self._attempt(path, "written", lambda: self.fs.pipe_file(self.full(path), data))

    def create(self, path: str, data: bytes) -> bytes:
        """Write the whole file unless there is one; returns the content of the file: `data`, or what was there before.

        The storage itself decides which writer is first, so that exactly one of any number is: see `exclusive`.
        """
        try:
            self._create(path, data)
        except TakenNameError:
            return self.read(path)
        return data

    def exclusive(self, path: str) -> bool:
        """Whether the storage really refuses to overwrite in `create`; tried on this file, which must exist."""
        if self.local:
            return local.links(self.full(path))
        try:
            self._create(path, self.read(path))
        except TakenNameError:
            return True
        return False

    def _create(self, path: str, data: bytes) -> None:
        if self.local:
            self._attempt(path, "written", lambda: local.create(self.full(path), data))
        else:
            self._attempt(path, "written", lambda: self.fs.pipe_file(self.full(path), data, mode="create"))

    def open(self, path: str, version: str = "") -> BinaryIO:
        """The file as a seekable stream that fetches bytes as they are read. With its `fingerprint` as version, no
        request for the size is needed."""
        if self.local:
            return self._open_local(path)
        return RemoteFile(self, path, version)

    def read_range(self, path: str, start: int, stop: int, version: str = "") -> bytes:
        """Bytes `start` to `stop` (exclusive) of the file, which must be long enough; on S3, with a version, only of
        the file of that version."""
        if self.local:
            with self._open_local(path) as file:
                file.seek(start)
                return file.read(stop - start)
        return self._attempt(path, "read", lambda: self._get(path, start, stop, version.partition("-")[2]))

    @property
    def compares(self) -> bool:
        """Whether the storage itself checks, on reading, that a file has the planned version."""
        return "s3" in self.fs.protocol

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder; an outage is a `StorageError`, never a "no"."""
        try:
            self._info(path)
        except MissingFileError:
            return False
        return True

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder (on object stores: a prefix with something under it)."""
        try:
            return bool(self._info(path)["type"] == "directory")
        except MissingFileError:
            return False

    def size(self, path: str) -> int:
        """The file's size in bytes."""
        size = self._info(path)["size"]
        if size is None:
            raise FileError(self.name(path), "Its server doesn't tell its size.")
        return int(size)

    def fingerprint(self, path: str) -> str:
        """A string that changes when the file does: its size with its ETag, generation or time of change."""
        return fingerprint(self._info(path))

    def contents(self, path: str) -> str:
        """The same for a table. On a local disk it is made from the size and the file's end, where formats keep their
        index, so that a new modification time alone is no change."""
        if not self.local:
            return self.fingerprint(path)
        with self._open_local(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _END))
            return f"{size}-{hashlib.sha256(file.read()).hexdigest()[:16]}"

    def list(self, folder: str = "") -> list[str]:
        """Sorted names of the files directly in a folder; [] if there is no such folder."""
        full = self.full(folder)
        if self.local:
            try:
                with os.scandir(full) as entries:
                    names = [entry.name for entry in entries if entry.is_file()]
            except (FileNotFoundError, NotADirectoryError):
                return []
            except OSError as error:
                raise self._translated(error, folder, "listed") from error
            return sorted(name for name in names if not name.startswith(TEMPORARY))
        self.fs.invalidate_cache()
        try:
            infos = self._attempt(folder, "listed", lambda: self.fs.ls(full, detail=True))
        except MissingFileError:
            return []
        names = [str(info["name"]).rstrip("/").rsplit("/", 1)[-1] for info in infos if info["type"] == "file"]
        own = full.rstrip("/").rsplit("/", 1)[-1]
        if len(infos) == 1 and names == [own] and str(infos[0]["name"]).strip("/") == full.strip("/"):
            return []  # for a file, some file systems list the file itself
        return sorted(name for name in names if name)

    def remove(self, path: str) -> None:
        """Delete the file; does nothing if there is none."""
        call = (lambda: os.remove(self.full(path))) if self.local else (lambda: self.fs.rm_file(self.full(path)))
        try:
            self._attempt(path, "removed", call)
        except MissingFileError:
            return

    def sweep(self, folder: str) -> None:
        """Remove files that killed writers left half-written in a local folder; other storages have none."""
        if not self.local:
            return
        with suppress(FileNotFoundError), os.scandir(self.full(folder)) as entries:
            for entry in list(entries):
                if entry.name.startswith(TEMPORARY):
                    os.remove(entry.path)

    def stat(self, path: str) -> os.stat_result:
        """The state of a local file, links followed."""
        try:
            return os.stat(self.full(path))
        except OSError as error:
            raise self._translated(error, path, "read") from error

    def walk(self, depth: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """The full path and fsspec's `info` of every file below a remote folder, down to a depth. At most one page (on
        S3) or one folder is in memory."""
        if self.compares and depth is None and not self.fs.version_aware:
            yield from self._pages()
            return
        folders = [(self.root, 1)]
        while folders:
            folder, at = folders.pop()
            self.fs.invalidate_cache()  # or it would keep the whole listing in memory
            try:
                found = self._attempt(folder, "listed", partial(self.fs.ls, folder, detail=True))
            except MissingFileError:  # deleted since it was listed
                continue
            for about in found:
                path = str(about["name"])
                if about["type"] != "directory":
                    yield path, about
                elif (depth is None or at < depth) and path.strip("/") != folder.strip("/"):
                    folders.append((path, at + 1))

    def _pages(self) -> Iterator[tuple[str, dict[str, Any]]]:
        bucket, key, _ = self.fs.split_path(self.root)
        asked = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else "", **self.fs.req_kw}
        while True:
            page = self._attempt("", "listed", partial(self.fs.call_s3, "list_objects_v2", **asked))
            for about in page.get("Contents", ()):
                if not about["Key"].endswith("/"):
                    yield f"{bucket}/{about['Key']}", {"size": about["Size"], "ETag": about["ETag"]}
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _info(self, path: str) -> dict[str, Any]:
        if self.local:
            return info(self.stat(path))
        self.fs.invalidate_cache()  # another machine may have changed it
        return self._attempt(path, "read", lambda: cast(dict[str, Any], self.fs.info(self.full(path))))

    def _open_local(self, path: str) -> BinaryIO:
        # Without O_NONBLOCK, opening a named pipe waits for a writer that never comes.
        try:
            descriptor = os.open(self.full(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:
            raise self._translated(error, path, "read") from error
        reason = irregular(os.fstat(descriptor).st_mode)
        if reason:
            os.close(descriptor)
            raise FileError(self.name(path), reason)
        return os.fdopen(descriptor, "rb")

    def _check_size(self, path: str, size: int, max_bytes: int | None) -> None:
        if max_bytes is not None and size > max_bytes:
            raise FileError(self.name(path), f"It has {size:,} bytes, more than the {max_bytes:,} allowed.")

    def _attempt(self, path: str, verb: str, call: Callable[[], T]) -> T:
        """Call the storage. Remote calls are repeated with growing pauses unless the error is about this file alone."""
        attempts = 1 if self.local else ATTEMPTS
        for attempt in range(attempts):
            try:
                return call()
            except Exception as error:
                translated = self._translated(error, path, verb)
                if isinstance(translated, FileError) or attempt == attempts - 1:
                    raise translated from error
                # Random, so that clients don't retry at the same moment.
                time.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _translated(self, error: Exception, path: str, verb: str) -> StorageError:
        """The storage's error as one of ours; a `FileError` if it is about this file alone."""
        name = self.name(path)
        gone = getattr(getattr(error, "response", None), "status_code", None) == 404  # from the hub's client
        if gone or isinstance(error, FileNotFoundError):
            return MissingFileError(name, missing(self.full(path)) if self.local else "There is no such file.")
        if isinstance(error, ChangedFileError):
            return error
        if isinstance(error, FileExistsError):
            return TakenNameError(name, "There is such a file already.")
        if isinstance(error, PermissionError):
            return FileError(name, f"It can't be {verb}: permission is denied.")
        if isinstance(error, IsADirectoryError):
            return FileError(name, "It is a folder, not a file.")
        number = error.errno if isinstance(error, OSError) else None
        if self.local and number == errno.ELOOP:
            return FileError(name, "It is a link that leads back to itself.")
        if self.local and verb != "written" and number not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return FileError(name, f"It can't be {verb} ({first_line(error)}).")
        return StorageError(f"{shown(name)} can't be {verb}: {first_line(error)}.")
