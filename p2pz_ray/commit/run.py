"""Reading a run, finished or not: only files that a manifest names count."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.errors import ConfigError, P2PZError, first_line


class Run:
    """The current content of a run's folder.

    plan: all partitions; manifests: of the committed ones, in the plan's order; config: the recorded
    configuration, or {}; complete: whether the run is marked as finished.

    Raises `ConfigError` if there is no run at the URI, `P2PZError` if one of its files can't be read.
    """

    def __init__(
        self, uri: str, storage_options: dict[str, Any] | None = None, manifests: Sequence[Manifest] | None = None
    ) -> None:
        self.uri = uri
        self.folder = RunFolder(uri, storage_options)
        self.store = self.folder.store
        plan = self.folder.plan()
        if plan is None:
            raise ConfigError(f"{uri} is not a run: it has no plan.json, so give the output of p2pz translate.")
        self.plan = plan
        self.config = self.folder.config() or {}
        # Checked before the manifests: else a run that finishes in between would look complete with some missing.
        self.complete = self.folder.finished
        self.manifests = tuple(self.folder.manifests(plan.ids).values() if manifests is None else manifests)

    def batches(self, manifest: Manifest, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The pairs of a committed partition, a few dozen at a time, with these columns."""
        with self.store.open(manifest.file) as file:
            try:
                pairs = pq.ParquetFile(file)
                if pairs.metadata.num_rows != manifest.rows:
                    raise OSError(f"{pairs.metadata.num_rows} rows instead of {manifest.rows}")
                yield from pairs.iter_batches(32, columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise P2PZError(
                    f"{self.store.name(manifest.file)} can't be read ({first_line(error)}): remove its manifest "
                    "and run translate again."
                ) from error
