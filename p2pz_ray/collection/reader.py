"""Reading a partition: each planned row is returned once, as encoded bytes or as a sentence on what is wrong."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from p2pz_ray.collection.forms import img2dataset, sidecar, tar
from p2pz_ray.collection.in_order import in_order
from p2pz_ray.collection.listing import locate
from p2pz_ray.collection.partition import Kind, Partition, Source, file_id, row_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.table import Row, TableFile, table_version
from p2pz_ray.collection.table_format import UNREADABLE
from p2pz_ray.errors import ConfigError, ImageError, P2PZError, first_line
from p2pz_ray.storage.failure import ChangedFileError, FileError, StorageError, shown
from p2pz_ray.storage.store import Store

REQUESTS = 16
"""Files of pictures that are read at once."""
MAX_BYTES = 64 * 2**20
"""Largest encoded image, unless another limit is given."""

# Protocols from which a row may name a picture, besides its collection's own. fsspec knows more, but rows are
# untrusted: they must not reach this machine's files or network.
_OPEN_PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")


@dataclass(frozen=True)
class Item:
    """One row: encoded image bytes, or None and a sentence (without the id) on what is wrong; and its encoded
    mask, where one is asked for. `conditions` are further pictures that were asked for: None where there is none, the
    sentence that says why where one can't be had."""

    id: str
    data: bytes | None
    caption: str | None
    error: str | None
    mask: bytes | None = None
    conditions: tuple[bytes | str | None, ...] = ()


def read_partition(
    uri: str,
    partition: Partition,
    columns: Columns | None = None,
    storage_options: dict[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    follow: Sequence[str] = (),
) -> Iterator[Item]:
    """The partition's rows in order, one at a time; `uri`, `columns` and options are those of `make_plan`.

    Rows are untrusted: a picture that one names by path must be in the collection's folder or bucket, or in one of the
    folders in `follow`.

    A bad row never hurts its neighbours: what can't be read becomes an `Item` with an error. Only what isn't the
    row's own fault is raised: `StorageError` when the storage itself fails (worth another try), `P2PZError` when a
    table isn't the one that was planned.
    """
    store = _home(uri, storage_options)
    renamed = dict(partition.renamed)
    columns = columns or Columns()
    if partition.kind in ("files", "captioned"):
        masks = None if columns.masks is None else Store(columns.masks, storage_options)

        def of_file(numbered: tuple[int, Source]) -> Item:
            row, source = numbered
            return _file_item(store, source, renamed.get(row, file_id(source.path)), columns, masks, max_bytes)

        with _requests() as threads:
            yield from in_order(of_file, enumerate(partition.sources), threads, REQUESTS)
        return
    if partition.kind == "tar":
        for row, item in enumerate(_tar_items(store, partition.sources, columns, max_bytes)):
            yield replace(item, id=renamed.get(row, item.id))
        return
    if partition.kind == "failed":
        for source in partition.sources:
            for id, caption, sentence in img2dataset.failures(store, source, columns):
                yield Item(id, None, caption, sentence)
        return
    fetch = _Fetcher(store, storage_options, max_bytes, follow)
    items = _table_items(store, partition.kind, partition.sources, columns, fetch)
    for row, item in enumerate(items):
        if row in renamed:
            sentence = f"Its id {item.id!r} belongs to an earlier row: give each row an id of its own."
            item = Item(renamed[row], None, item.caption, item.error or sentence)
        yield item


def _file_item(store: Store, source: Source, id: str, columns: Columns, masks: Store | None, max_bytes: int) -> Item:
    if source.problem:
        return Item(id, None, None, source.problem)
    caption = mask = None
    try:
        caption = sidecar.caption(store, source, columns)
        data = store.read(source.path, max_bytes, source.fingerprint)
        if masks is not None:
            mask = sidecar.mask(masks, source.path, max_bytes)
    except FileError as error:
        return Item(id, None, caption, error.reason)
    except ImageError as error:
        return Item(id, None, caption, str(error))
    return Item(id, data, caption, None, mask) if data else Item(id, None, caption, "The file is empty (0 bytes).")


def _tar_items(store: Store, sources: tuple[Source, ...], columns: Columns, max_bytes: int) -> Iterator[Item]:
    for source in sources:
        if store.fingerprint(source.path) != source.fingerprint:
            raise P2PZError(
                f"{shown(store.name(source.path))} changed since the plan was made: put it back or start a new run."
            )
        for id, sample in tar.read(store, source, columns):
            data: bytes | None = sample.get("data")
            sentence: str | None = sample.get("error")
            size = len(data or b"")
            if sentence is None and not size:
                sentence = "Its image is empty (0 bytes)."
            elif size > max_bytes:
                sentence = f"It has {size:,} bytes, more than the {max_bytes:,} allowed."
            data = None if sentence else data
            yield Item(id, data, sample.get("caption"), sentence, sample.get("mask"), sample.get("conditions", ()))


def _table_items(
    store: Store, kind: Kind, sources: tuple[Source, ...], columns: Columns, fetch: _Fetcher
) -> Iterator[Item]:
    for (path, version), group in groupby(sources, key=lambda source: (source.path, source.fingerprint)):
        name = shown(store.name(path))
        changed = P2PZError(f"{name} changed since the plan was made: put it back or start a new run.")
        if not store.compares and table_version(store, path, kind) != version:
            raise changed
        try:
            with _opened(store, path, kind, columns, version) as table:
                for source in group:
                    yield from _source_items(table, source, fetch)
        except ChangedFileError as error:
            raise changed from error


_stopped: deque[tuple[Any, TableFile]] = deque()
"""The table that was read last, open where reading it stopped: the next partition of a row group or of a stream goes on
there, so that its bytes are read once."""


@contextmanager
def _opened(store: Store, path: str, kind: Kind, columns: Columns, version: str) -> Iterator[TableFile]:
    """A table for a `with` block that nobody else uses meanwhile: the one that was read last, or newly opened."""
    key = (store.fs, store.full(path), kind, columns, version)
    table = None
    with suppress(IndexError):
        last, table = _stopped.pop()
        if last != key:
            table.close()
            table = None
    table = table or TableFile(store, path, kind, columns, version)
    sound = False
    try:
        yield table
        sound = True
    except GeneratorExit:  # the caller stopped reading, for now
        sound = True
        raise
    finally:
        if sound:
            _stopped.append((key, table))
            while len(_stopped) > 1:
                with suppress(IndexError):
                    _stopped.popleft()[1].close()
        else:
            table.close()


@contextmanager
def _requests() -> Iterator[ThreadPoolExecutor]:
    """Threads to read in. On exit, reads that haven't started are cancelled."""
    threads = ThreadPoolExecutor(REQUESTS, thread_name_prefix="read")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


_homes: dict[Any, Store] = {}
"""Remote collections' stores, found once instead of for each partition."""


def _home(uri: str, storage_options: dict[str, Any] | None) -> Store:
    store = Store(uri, storage_options)
    if store.local:
        return locate(store)[0]
    key = (store.fs, store.root)
    if key not in _homes:
        _homes[key] = locate(store)[0]
    return _homes[key]


def _source_items(table: TableFile, source: Source, fetch: _Fetcher) -> Iterator[Item]:
    number = source.offset + source.start
    done = 0

    def item(numbered: tuple[int, Row]) -> Item:
        at, row = numbered
        return fetch.item(row, row.id or row_id(source.path, number + at), source.path)

    try:
        rows = enumerate(table.rows(source.piece, source.start, source.stop))
        first = next(rows, None)
        if first is None:
            return
        yield item(first)
        done += 1
        if first[1].data is not None:  # usually all rows hold their pictures, or none do
            for numbered in rows:
                yield item(numbered)
                done += 1
        else:
            with _requests() as threads:
                for result in in_order(item, rows, threads, REQUESTS):
                    yield result
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
        # In an object store the first part of a path is the bucket, which has one owner.
        home = store.root if store.local else store.root.lstrip("/").partition("/")[0]
        self._open = [(type(store.fs), _folder(home))]
        self._open += [(type(other.fs), _folder(other.root)) for other in map(Store, follow)]

    def item(self, row: Row, id: str, table_path: str) -> Item:
        """The row's item; `table_path` is the file that the row's path is relative to."""
        mask = None
        try:
            if not row.data and row.path is None and row.problem:
                raise ImageError(img2dataset.sentence(row.problem))
            data = self._checked(row.data, row.path, table_path, "image")
            if row.mask is not None or row.mask_path is not None:
                mask = self._checked(row.mask, row.mask_path, table_path, "mask")
        except ImageError as error:
            return Item(id, None, row.caption, str(error))
        return Item(id, data, row.caption, None, mask, self._conditions(row, table_path))

    def _conditions(self, row: Row, table_path: str) -> tuple[bytes | str | None, ...]:
        conditions: list[bytes | str | None] = []
        for data, path in row.conditions:
            try:
                nothing = data is None and path is None
                conditions.append(None if nothing else self._checked(data, path, table_path, "condition"))
            except ImageError as error:
                conditions.append(str(error))
        return tuple(conditions)

    def _checked(self, data: bytes | None, path: str | None, table_path: str, what: str) -> bytes:
        """A picture's bytes, fetched where its row holds none; `what` it is, for a sentence."""
        if data is None:
            data = self._fetched(path, table_path, what)
        if not data:
            raise ImageError(f"Its {what} is empty (0 bytes).")
        if len(data) > self._max_bytes:
            it = "It" if what == "image" else "Its mask"
            raise ImageError(f"{it} has {len(data):,} bytes, more than the {self._max_bytes:,} allowed.")
        return data

    def _fetched(self, path: str | None, table_path: str, what: str) -> bytes:
        if path is None:
            raise ImageError(f"Its {what} is null.")
        if "://" in path:
            return self._fetched_from_uri(path, what)
        if path.startswith("/") and not self._store.local:
            raise ImageError(f"Its {what}'s path {path!r} must be relative to the table's file, or a URI.")
        root = self._store.root
        full = posixpath.normpath(posixpath.join(root, posixpath.dirname(table_path), path))
        self._check_open(self._store, full, path, what)
        folder, name = posixpath.split(full)
        try:
            return self._store.rebased(folder).read(name, self._max_bytes)
        except FileError as error:
            raise ImageError(f"Its {what} {path!r} can't be used: {error.reason}") from error

    def _fetched_from_uri(self, uri: str, what: str) -> bytes:
        protocol = uri.partition("://")[0]
        if protocol not in (*self._own, *_OPEN_PROTOCOLS):
            raise ImageError(
                f"Its {what} is at {uri!r}, and {protocol!r} isn't fetched from: copy it next to the table."
            )
        try:
            named = Store(uri, self._options if protocol in self._own else None)
            if named.local:
                named = named.rebased(posixpath.normpath(named.root))
            self._check_open(named, named.root, uri, what)
            return named.read("", self._max_bytes)
        except FileError as error:
            raise ImageError(f"Its {what} {uri!r} can't be used: {error.reason}") from error
        except StorageError as error:
            if protocol in self._own:
                raise
            raise ImageError(f"Its {what} can't be fetched: {error}") from error
        except ConfigError as error:
            raise ImageError(f"Its {what} can't be fetched: {error}") from error

    def _check_open(self, store: Store, full: str, path: str, what: str) -> None:
        place = _folder(full)
        inside = any(type(store.fs) is kind and place.startswith(folder) for kind, folder in self._open)
        if not inside or ".." in place.split("/"):
            raise ImageError(
                f"Its {what} {path!r} lies outside the collection: if its table is to be trusted, name the folder in "
                "input.follow."
            )
