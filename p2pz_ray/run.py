"""A run for use in Python: its progress, its pairs and its scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from p2pz_ray.errors import ConfigError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import ray.data

    from p2pz_ray.commit.manifest import Manifest
    from p2pz_ray.translation.status import Status


class Run:
    """A run's folder at any fsspec URI, finished or not. Each method reads what is committed when it is called.

    Raises ConfigError where there is no run.
    """

    def __init__(self, uri: str, storage_options: dict[str, Any] | None = None) -> None:
        self.uri, self._options = uri, storage_options
        self._opened()

    def __repr__(self) -> str:
        return f"Run({self.uri!r})"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, with all defaults, as it was recorded."""
        return self._opened().config

    @property
    def finished(self) -> bool:
        """Whether all of the run is committed, so that nothing changes any more."""
        return self._opened().complete

    def status(self) -> Status:
        """The run's progress, from its manifests."""
        from p2pz_ray.translation.status import status

        return status(self.uri, self._options)

    def pairs(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The pairs in the collection's order, a few dozen in memory at a time; all columns or `columns`.

        Pictures are encoded, struct<bytes, path>; rows that failed have status "error" and a sentence.
        """
        from p2pz_ray.collection.schema import pairs_schema

        run, names = self._opened(), list(columns or pairs_schema().names)
        for manifest in run.manifests:
            yield from run.batches(manifest, names)

    def scores(self) -> pa.Table:
        """The scores: id, edit and one column per score. Raises ConfigError where nothing is scored yet."""
        import pyarrow as pa

        from p2pz_ray.evaluation.scores import ScoreFolder

        run = self._opened()
        tables = [table.replace_schema_metadata() for _, table in ScoreFolder(run.store).tables(run.manifests)]
        if not tables:
            raise ConfigError(f"{self.uri} has no scores yet: run p2pz evaluate run={self.uri} first.")
        return pa.concat_tables(tables, promote_options="default")

    def to_ray_dataset(self, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """Its pairs as a Ray dataset, read by the cluster that this process is connected to."""
        import ray.data

        run = self._opened()
        paths = [run.store.full(manifest.file) for manifest in self._some(run.manifests)]
        filesystem = None if run.store.local else run.store.fs
        return ray.data.read_parquet(paths, filesystem=filesystem, columns=list(columns) if columns else None)

    def to_hf_dataset(self, streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
        """The pairs as a Hugging Face dataset, whose pictures are decoded on access.

        streaming: read the pairs in place instead of copying them into the cache first. Needs `datasets`.
        """
        try:
            import datasets
        except ImportError:
            raise ConfigError("to_hf_dataset needs the package datasets: pip install datasets.") from None
        run = self._opened()
        files = [run.store.name(manifest.file) for manifest in self._some(run.manifests)]
        options = {} if run.store.local else {"storage_options": self._options or {}}
        return datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming, **options)

    def _opened(self) -> Any:
        from p2pz_ray.commit.run import Run as Opened

        return Opened(self.uri, self._options)

    def _some(self, manifests: Sequence[Manifest]) -> Sequence[Manifest]:
        if not manifests:
            raise ConfigError(f"{self.uri} has no pairs yet: wait for its first partition, or run p2pz translate.")
        return manifests
