"""img2dataset's output: pictures in 00000.tar, in a folder 00000 or in 00000.parquet. Next to them are
00000_stats.json, and 00000.parquet with a row for each picture, including those that couldn't be downloaded.
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
    """The paths of the Parquet files that have img2dataset's statistics next to them."""
    return {f"{match[1]}.parquet" for match in map(_STATS.fullmatch, names) if match}


def plan_failures(store: Store, path: str, fingerprint: str, per_partition: int) -> Iterator[list[Source]]:
    """Partitions of error rows: one for each picture that couldn't be downloaded, according to a metadata file."""
    count = sum(1 for _ in _failures(store, path, []))
    for start in range(0, count, per_partition):
        yield [Source(path, fingerprint, None, 0, start, min(count, start + per_partition))]


def failures(store: Store, source: Source, columns: Columns) -> Iterator[tuple[str, str | None, str]]:
    """The id, caption and error sentence of each row of a source that `plan_failures` made."""
    captions = [columns.caption] if columns.caption is not None else []
    for row in islice(_failures(store, source.path, captions), source.start, source.stop):
        caption = row.get(columns.caption) if columns.caption else None
        reason = row.get("error_message") or row.get("status")
        id = f"{source.path.removesuffix('.parquet')}/{row['key']}"
        yield file_id(id), caption if isinstance(caption, str) else None, sentence(str(reason))


def sentence(reason: str) -> str:
    """The sentence that says why there is no picture."""
    return f"img2dataset couldn't download it ({shown(reason).rstrip('.')})."


def _failures(store: Store, path: str, more: list[str]) -> Iterator[dict[str, object]]:
    """The rows of a metadata file whose picture couldn't be downloaded, in order, with `more` of their columns."""
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
