"""The scores of a run: one Parquet file per partition, written whole, which records what it was made from.

    RUN/scores/{partition}.parquet    id, edit, one column per score; the schema's metadata holds what computed each,
                                      the fingerprint of the configuration and the digest of the scored pairs

A file with another fingerprint or of other pairs counts as missing and is made again. So evaluating twice, or after a
kill, gives the same files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.collection.schema import table_bytes
from p2pz_ray.commit.folder import READERS
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.errors import P2PZError, first_line
from p2pz_ray.evaluation.metrics.metric import Scores
from p2pz_ray.storage.store import Store

FOLDER = "scores"
_FINGERPRINT, _PAIRS, _BROKEN, _SCORE = b"p2pz:fingerprint", b"p2pz:pairs", b"p2pz:unreadable", "score:"
_AT_ONCE = 8 * READERS  # files read ahead
_MEASURED = ("collection", "words", "masks", "metrics")
"""The sections of a configuration that change a score."""


def fingerprint(config: EvaluateConfig) -> str:
    """16 hex digits that change with everything that could change a score."""
    measured = config.model_dump(mode="json", include=set(_MEASURED))
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:16]


class ScoreFolder:
    """The scores of a run. store: the run's folder."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def write(
        self,
        manifest: Manifest,
        fingerprint: str,
        keys: Sequence[tuple[str, str]],
        scores: Scores,
        made_by: Mapping[str, str],
        unreadable: int,
    ) -> pa.Table:
        """Write a partition's scores, and return them. keys: id and edit of each row. unreadable: number of rows whose
        pictures can't be read."""
        fields = [("id", pa.string()), ("edit", pa.string()), *((name, pa.float64()) for name in scores)]
        metadata = {
            _FINGERPRINT: fingerprint.encode(),
            _PAIRS: manifest.sha256.encode(),
            _BROKEN: str(unreadable).encode(),
        }
        metadata |= {f"{_SCORE}{name}".encode(): made.encode() for name, made in made_by.items()}
        columns = [pa.array([key[i] for key in keys], pa.string()) for i in (0, 1)]
        columns += [pa.array(values, pa.float64(), from_pandas=True) for values in scores.values()]
        table = pa.table(columns, schema=pa.schema(fields, metadata))
        self.store.write(self._path(manifest), table_bytes(table))
        return table

    def missing(self, manifests: Sequence[Manifest], fingerprint: str) -> list[Manifest]:
        """The partitions that have no scores of this configuration yet."""
        there = set(self.store.list(FOLDER))
        named = [manifest for manifest in manifests if f"{manifest.partition}.parquet" in there]
        with ThreadPoolExecutor(READERS) as readers:
            held = list(readers.map(lambda manifest: self._made_of(manifest), named))
        done = {m.partition for m, found in zip(named, held, strict=True) if found == (fingerprint, m.sha256)}
        return [manifest for manifest in manifests if manifest.partition not in done]

    def tables(self, manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, pa.Table]]:
        """The scores of each partition that has some for its present pairs; a few tables in memory at a time."""
        there = set(self.store.list(FOLDER))
        named = [manifest for manifest in manifests if f"{manifest.partition}.parquet" in there]
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(named), _AT_ONCE):
                some = named[start : start + _AT_ONCE]
                for manifest, table in zip(some, readers.map(self._read, some), strict=True):
                    if (table.schema.metadata or {}).get(_PAIRS, b"").decode() == manifest.sha256:
                        yield manifest, table

    def sweep(self, manifests: Sequence[Manifest]) -> None:
        """Remove scores of partitions that the run no longer has."""
        kept = {f"{manifest.partition}.parquet" for manifest in manifests}
        for name in self.store.list(FOLDER):
            if name not in kept:
                self.store.remove(f"{FOLDER}/{name}")

    def _made_of(self, manifest: Manifest) -> tuple[str, str] | None:
        """The fingerprint and pairs' digest of a partition's scores; None if they can't be read, to be made again."""
        try:
            with self.store.open(self._path(manifest)) as file:
                metadata = pq.read_schema(file).metadata or {}
        except (pa.ArrowException, OSError):
            return None
        return metadata.get(_FINGERPRINT, b"").decode(), metadata.get(_PAIRS, b"").decode()

    def _read(self, manifest: Manifest) -> pa.Table:
        path = self._path(manifest)
        try:
            with self.store.open(path) as file:
                return pq.ParquetFile(file).read()
        except (pa.ArrowException, OSError) as error:
            raise P2PZError(
                f"{self.store.name(path)} can't be read ({first_line(error)}): run p2pz evaluate again."
            ) from error

    def _path(self, manifest: Manifest) -> str:
        return f"{FOLDER}/{manifest.partition}.parquet"


def made_by(table: pa.Table) -> dict[str, str]:
    """Score → what computed it, from a table of scores."""
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return {key.removeprefix(_SCORE): value for key, value in found.items() if key.startswith(_SCORE)}


def unreadable(table: pa.Table) -> int:
    """How many rows had pictures that couldn't be read."""
    return int((table.schema.metadata or {}).get(_BROKEN, b"0"))
