"""WebDataset tars: consecutive members whose names agree up to the first dot are one sample.

    000000.jpg  000000.txt  000000.json  000001.png  …

The plan reads a tar's headers once to find its samples. A partition is a run of consecutive samples, which is read as
one range of bytes. In a remote tar of small pictures, seeking from header to header would take longer than reading
through the pictures, so there the whole tar is read.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from p2pz_ray.collection.partition import Source, file_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.errors import ConfigError, ImageError, first_line
from p2pz_ray.storage.failure import shown
from p2pz_ray.storage.remote_file import Positioned
from p2pz_ray.storage.store import Store

PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "heif", "jxl", "jp2")
_SAMPLE = re.compile(r"((?:.*/)?[^.][^./]*)\.([^/]+)")  # the sample's key, and the part that a member is
_SMALL = 256 << 10
"""Bytes of a picture below which a remote tar is read through rather than seeked in."""
_CHUNK = 4 << 20
_TEXT = 1 << 20  # bytes of a caption's member that are read


@dataclass(frozen=True)
class Sample:
    """A sample's place in a tar: its members' key, and the bytes from its first header to its last member's end."""

    key: str
    begin: int
    end: int


def samples(store: Store, path: str, columns: Columns) -> tuple[list[Sample], int]:
    """The samples of a tar that have a picture, in their order there, and the number of samples that have none. Raises
    `ConfigError` for a file that isn't a tar or is cut off."""
    found: list[tuple[Sample, bool]] = []  # and whether it has a picture
    with store.open(path) as file:
        source: IO[bytes] = file
        if not store.local and _first_size(store, path) < _SMALL:
            source = cast(IO[bytes], _ForwardFile(store, path))
        try:
            with tarfile.open(fileobj=source, mode="r:") as tar:
                for member in tar:
                    match = _SAMPLE.fullmatch(member.name.removeprefix("./"))
                    if not member.isreg() or match is None:
                        continue
                    key, part = match[1], match[2].lower()
                    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    picture = _is_picture(part, columns)
                    if found and found[-1][0].key == key:
                        last, has_picture = found.pop()
                        found.append((Sample(key, last.begin, end), has_picture or picture))
                    else:
                        found.append((Sample(key, member.offset, end), picture))
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"{shown(store.name(path))} isn't a readable tar ({first_line(error)}): write it again, unpack it "
                "if it is compressed, or leave it out."
            ) from error
    kept = [sample for sample, picture in found if picture]
    return kept, len(found) - len(kept)


def new_ids(path: str, samples: Sequence[Sample]) -> dict[int, str]:
    """New ids, by row, for samples with the key of an earlier sample of the tar."""
    count: dict[str, int] = {}
    taken = {sample.key for sample in samples}
    ids: dict[int, str] = {}
    for row, sample in enumerate(samples):
        number = count[sample.key] = count.get(sample.key, 0) + 1
        if number > 1:
            while f"{sample.key}#{number}" in taken:
                number += 1
            count[sample.key] = number
            taken.add(f"{sample.key}#{number}")
            ids[row] = sample_id(path, f"{sample.key}#{number}")
    return ids


def sources(path: str, fingerprint: str, samples: Sequence[Sample], per_partition: int) -> Iterator[list[Source]]:
    """The partitions of a tar: runs of consecutive samples, of nearly equal length."""
    parts = max(1, round(len(samples) / per_partition))
    for i in range(parts):
        start, stop = len(samples) * i // parts, len(samples) * (i + 1) // parts
        if start < stop:
            begin, end = samples[start].begin, samples[stop - 1].end
            yield [Source(path, fingerprint, None, begin, start, stop, end)]


def sample_id(path: str, key: str) -> str:
    """A sample's id: the tar's path and its key."""
    return file_id(f"{path}/{key}")


def read(store: Store, source: Source, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of a source in order: the id of each, and a mapping with its `data` and `caption`, or with its
    `error`; in both cases also with its `conditions`, and its `mask` if the columns name one.

    Raises `StorageError` if the storage fails.
    """
    data = store.read_range(source.path, source.piece, source.offset)
    parts: dict[str, bytes] = {}
    current: str | None = None
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            match = _SAMPLE.fullmatch(member.name.removeprefix("./"))
            file = tar.extractfile(member) if member.isreg() and match else None
            if match is None or file is None:
                continue
            if current not in (None, match[1]):
                yield from _sample(source.path, str(current), parts, columns)
                parts = {}
            current = match[1]
            parts.setdefault(match[2].lower(), file.read())
    if current is not None:
        yield from _sample(source.path, current, parts, columns)


def _sample(path: str, key: str, parts: dict[str, bytes], columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    picture = next((part for part in parts if _is_picture(part, columns)), None)
    if picture is None:
        return
    sample: dict[str, Any] = {"data": parts[picture]}
    try:
        sample["caption"] = _caption(parts, columns)
    except ImageError as error:
        sample = {"error": str(error)}
    if columns.mask is not None:
        mask = next((part for part in parts if _is_part(part, columns.mask)), None)
        sample["mask"] = None if mask is None else parts[mask]
    members = [next((part for part in parts if _is_part(part, name)), None) for name in columns.conditions]
    sample["conditions"] = tuple(None if member is None else parts[member] for member in members)
    yield sample_id(path, key), sample


def _caption(parts: dict[str, bytes], columns: Columns) -> str | None:
    """A sample's caption: the member with the column's name, else that key of its JSON, else its .txt."""
    name = columns.caption
    if name is None:
        return None
    text: Any = None
    if name in parts or f"{name}.txt" in parts:
        text = _text(parts.get(name) or parts[f"{name}.txt"])
    if text is None and "json" in parts:
        try:
            content = json.loads(parts["json"][:_TEXT])
        except ValueError:
            raise ImageError("Its JSON can't be read.") from None
        text = content.get(name) if isinstance(content, dict) else None
    if text is None and "txt" in parts:
        text = _text(parts["txt"])
    return " ".join(text.split()) or None if isinstance(text, str) else None


def _text(data: bytes) -> str:
    return data[:_TEXT].decode("utf-8-sig", "backslashreplace")


def _is_picture(part: str, columns: Columns) -> bool:
    if any(_is_part(part, name) for name in (columns.mask, *columns.conditions) if name is not None):
        return False
    if columns.image != Columns.image:
        return _is_part(part, columns.image)
    return posixpath.basename(part).rpartition(".")[2] in PICTURES


def _is_part(part: str, name: str) -> bool:
    """Whether a member is the one that a configuration names: `mask` and `mask.png` both name mask.png."""
    return part == name.lower() or part.startswith(f"{name.lower()}.")


def _first_size(store: Store, path: str) -> int:
    """The size of the first member, as an estimate of all of them."""
    head = store.read_range(path, 0, min(tarfile.BLOCKSIZE, store.size(path)))
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape").size
    except tarfile.TarError:
        return 0


class _ForwardFile(Positioned):
    """A remote file that is read from beginning to end, in whole chunks; seeking back isn't needed."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__(store, path)
        self._start, self._chunk = 0, b""

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._position + size)
        if stop <= self._position:
            return b""
        if self._position < self._start or stop > self._start + len(self._chunk):
            end = min(self._size, max(stop, self._position + _CHUNK))
            self._start, self._chunk = self._position, self._store.read_range(self._path, self._position, end)
        data = self._chunk[self._position - self._start : stop - self._start]
        self._position += len(data)
        return data
