"""Reading a partition: every planned row comes out once, as encoded bytes or as a sentence on what is wrong."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from p2pz_ray.collection.failure import FileError, StorageError, shown
from p2pz_ray.collection.listing import locate
from p2pz_ray.collection.partition import Kind, Partition, Source, file_id, row_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.store import Store
from p2pz_ray.collection.table import UNREADABLE, Row, TableFile
from p2pz_ray.errors import ConfigError, ImageError, P2PZError, first_line

MAX_BYTES = 64 * 2**20
"""Largest encoded image, unless another limit is given."""

# Storage that a row may name a picture in, besides its collection's own. fsspec knows more, but a row is a
# stranger's word: it must not reach for this machine's files or its network.
_OPEN_PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")


@dataclass(frozen=True)
class Item:
    """One row: encoded image bytes, or None and a sentence (without the id) on what is wrong; and its encoded
    mask, where one is asked for."""

    id: str
    data: bytes | None
    caption: str | None
    error: str | None
    mask: bytes | None = None


def read_partition(
    uri: str,
    partition: Partition,
    columns: Columns | None = None,
    storage_options: dict[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    follow: Sequence[str] = (),
) -> Iterator[Item]:
    """The partition's rows in order, one at a time; `uri`, `columns` and options are those of `make_plan`.

    A row is a stranger's word: a picture that it names by path must lie in the collection's folder, or its bucket, or
    below one of the folders of `follow`.

    A bad row never hurts its neighbours: what can't be read becomes an `Item` with an error. Only what isn't the
    row's own fault is raised: `StorageError` when the storage itself fails (worth another try), `P2PZError` when a
    table isn't the one that was planned.
    """
    store, _ = locate(Store(uri, storage_options))
    renamed = dict(partition.renamed)
    if partition.kind == "files":
        for row, source in enumerate(partition.sources):
            id = renamed.get(row, file_id(source.path))
            yield _file_item(store, source, id, max_bytes)
        return
    fetch = _Fetcher(store, storage_options, max_bytes, follow)
    items = _table_items(store, partition.kind, partition.sources, columns or Columns(), fetch)
    for row, item in enumerate(items):
        if row in renamed:
            sentence = f"Its id {item.id!r} belongs to an earlier row: give each row an id of its own."
            item = Item(renamed[row], None, item.caption, item.error or sentence)
        yield item


def _file_item(store: Store, source: Source, id: str, max_bytes: int) -> Item:
    if source.problem:
        return Item(id, None, None, source.problem)
    try:
        data = store.read(source.path, max_bytes, source.fingerprint)
    except FileError as error:
        return Item(id, None, None, error.reason)
    return Item(id, data, None, None) if data else Item(id, None, None, "The file is empty (0 bytes).")


def _table_items(
    store: Store, kind: Kind, sources: tuple[Source, ...], columns: Columns, fetch: _Fetcher
) -> Iterator[Item]:
    for path, group in groupby(sources, key=lambda source: source.path):
        own = list(group)
        if store.contents(path) != own[0].fingerprint:
            raise P2PZError(
                f"{shown(store.name(path))} changed since the plan was made: put it back or start a new run."
            )
        with TableFile(store, path, kind, columns) as table:
            for source in own:
                yield from _source_items(table, source, fetch)


def _source_items(table: TableFile, source: Source, fetch: _Fetcher) -> Iterator[Item]:
    number = source.offset + source.start
    done = 0
    try:
        for row in table.rows(source.piece, source.start, source.stop):
            yield fetch.item(row, row.id or row_id(source.path, number + done), source.path)
            done += 1
    except UNREADABLE as error:
        sentence = f"Its row can't be read: {shown(source.path)} is broken there ({first_line(error)})."
        for i, id in enumerate(table.ids(source.piece, source.start, source.stop)[done:], done):
            yield Item(id or row_id(source.path, number + i), None, None, sentence)


def _folder(root: str) -> str:
    return f"/{root.strip('/')}/".replace("//", "/")


class _Fetcher:
    """Makes items of rows, following paths and URIs of pictures that a table names without holding them."""

    def __init__(
        self, store: Store, storage_options: dict[str, Any] | None, max_bytes: int, follow: Sequence[str]
    ) -> None:
        self._store, self._options, self._max_bytes = store, storage_options, max_bytes
        protocol = store.fs.protocol
        self._own = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        # Of an object store the first part of a path is the bucket, which is somebody's as a whole.
        home = store.root if store.local else store.root.lstrip("/").partition("/")[0]
        self._open = [(type(store.fs), _folder(home))]
        self._open += [(type(other.fs), _folder(other.root)) for other in map(Store, follow)]

    def item(self, row: Row, id: str, table_path: str) -> Item:
        """The row's item; `table_path` is the file that the row's path is relative to."""
        try:
            data = row.data if row.data is not None else self._fetched(row.path, table_path)
        except ImageError as error:
            return Item(id, None, row.caption, str(error))
        if not data:
            return Item(id, None, row.caption, "Its image is empty (0 bytes).")
        if len(data) > self._max_bytes:
            sentence = f"It has {len(data):,} bytes, more than the {self._max_bytes:,} allowed."
            return Item(id, None, row.caption, sentence)
        if row.mask is not None and len(row.mask) > self._max_bytes:
            sentence = f"Its mask has {len(row.mask):,} bytes, more than the {self._max_bytes:,} allowed."
            return Item(id, None, row.caption, sentence)
        return Item(id, data, row.caption, None, row.mask)

    def _fetched(self, path: str | None, table_path: str) -> bytes:
        if path is None:
            raise ImageError("Its image is null.")
        if "://" in path:
            return self._fetched_from_uri(path)
        if path.startswith("/") and not self._store.local:
            raise ImageError(f"Its image's path {path!r} must be relative to the table's file, or a URI.")
        root = self._store.root
        full = posixpath.normpath(posixpath.join(root, posixpath.dirname(table_path), path))
        self._check_open(self._store, full, path)
        folder, name = posixpath.split(full)
        try:
            return self._store.rebased(folder).read(name, self._max_bytes)
        except FileError as error:
            raise ImageError(f"Its image {path!r} can't be used: {error.reason}") from error

    def _fetched_from_uri(self, uri: str) -> bytes:
        protocol = uri.partition("://")[0]
        if protocol not in (*self._own, *_OPEN_PROTOCOLS):
            raise ImageError(f"Its image is at {uri!r}, and {protocol!r} isn't fetched from: copy it beside the table.")
        try:
            named = Store(uri, self._options if protocol in self._own else None)
            if named.local:
                named = named.rebased(posixpath.normpath(named.root))
            self._check_open(named, named.root, uri)
            return named.read("", self._max_bytes)
        except FileError as error:
            raise ImageError(f"Its image {uri!r} can't be used: {error.reason}") from error
        except StorageError as error:
            if protocol in self._own:
                raise
            raise ImageError(f"Its image can't be fetched: {error}") from error
        except ConfigError as error:
            raise ImageError(f"Its image can't be fetched: {error}") from error

    def _check_open(self, store: Store, full: str, path: str) -> None:
        place = _folder(full)
        inside = any(type(store.fs) is kind and place.startswith(folder) for kind, folder in self._open)
        if not inside or ".." in place.split("/"):
            raise ImageError(
                f"Its image {path!r} lies outside the collection: if its table is to be trusted, name the folder in "
                "input.follow."
            )
