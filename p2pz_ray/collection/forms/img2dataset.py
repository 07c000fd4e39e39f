"""What img2dataset writes: 00000.tar, or a folder 00000, of pictures, or 00000.parquet with them in it; beside each
00000_stats.json, and 00000.parquet with a row for each picture, those too that couldn't be downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.collection.partition import Source, file_id
from p2pz_ray.collection.schema import Columns
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.failure import shown
from p2pz_ray.storage.store import Store

_STATS = re.compile(r"(.*/?\d+)_stats\.json")
_SUCCESS = "success"


def metadata(names: Iterable[str]) -> set[str]:
    """The Parquet files, by path, that have img2dataset's statistics beside them."""
    return {f"{match[1]}.parquet" for match in map(_STATS.fullmatch, names) if match}


def failed(store: Store, path: str, fingerprint: str, per_partition: int) -> Iterator[list[Source]]:
    """The partitions of error rows for what a file of metadata says couldn't be downloaded."""
    count = sum(1 for _ in _failed(store, path, []))
    for start in range(0, count, per_partition):
        yield [Source(path, fingerprint, None, 0, start, min(count, start + per_partition))]


def failures(store: Store, source: Source, columns: Columns) -> Iterator[tuple[str, str | None, str]]:
    """The id, caption and sentence of each row of such a source."""
    wanted = [name for name in (columns.caption,) if name is not None]
    for row in islice(_failed(store, source.path, wanted), source.start, source.stop):
        caption = row.get(columns.caption) if columns.caption else None
        reason = row.get("error_message") or row.get("status")
        id = f"{source.path.removesuffix('.parquet')}/{row['key']}"
        yield file_id(id), caption if isinstance(caption, str) else None, sentence(str(reason))


def sentence(reason: str) -> str:
    """Why there is no picture."""
    return f"img2dataset couldn't download it ({shown(reason).rstrip('.')})."


def _failed(store: Store, path: str, more: list[str]) -> Iterator[dict[str, object]]:
    """The rows of a file of metadata that name no picture, in order."""
    try:
        with store.open(path) as file:
            table = pq.ParquetFile(file)
            present = set(table.schema_arrow.names)
            if not {"key", "status"} <= present:
                return
            names = [name for name in ("key", "status", "error_message", *more) if name in present]
            for batch in table.iter_batches(4096, columns=names):
                yield from (row for row in batch.to_pylist() if row["status"] != _SUCCESS)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{shown(store.name(path))} isn't a readable table ({first_line(error)}): write it again or leave it out."
        ) from error
