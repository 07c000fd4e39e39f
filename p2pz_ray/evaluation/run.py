"""A run's folder, finished or not, read through what its manifests vouch for."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from p2pz_ray.collection.partition import Plan
from p2pz_ray.collection.store import Store
from p2pz_ray.errors import ConfigError, P2PZError


@dataclass(frozen=True)
class Receipt:
    """One committed partition.

    file: its pairs, relative to the run's folder.
    images: rows of the collection it covers.
    rows: pairs in the file.
    started, finished: when it was worked on, in seconds since 1970, where the manifest says so.
    """

    file: str
    images: int
    rows: int
    started: float | None = None
    finished: float | None = None


class Run:
    """What stands in a run's folder at this moment.

    plan: all partitions; receipts: the committed ones, in the plan's order; config: the configuration as it was
    recorded, {} if it wasn't; complete: whether the run's end was marked.

    Raises `ConfigError` if there is no run at the URI, `P2PZError` if one of its files can't be read.
    """

    def __init__(self, uri: str, storage_options: dict[str, Any] | None = None) -> None:
        self.uri = uri
        self.store = Store(uri, storage_options)
        if not self.store.exists("plan.json"):
            raise ConfigError(f"{uri} is not a run: it has no plan.json, so give the output of p2pz translate.")
        self.plan = Plan.from_json(self.store.read("plan.json"))
        self.config = self._config()
        # Looked for before the manifests: a run that ends in between must not look complete and short of some.
        self.complete = self.store.exists("_SUCCESS")
        self.receipts = self._receipts()

    def batches(self, receipt: Receipt, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The pairs of a committed partition, a few dozen at a time, with these columns."""
        with self.store.open(receipt.file) as file:
            try:
                pairs = pq.ParquetFile(file)
                if pairs.metadata.num_rows != receipt.rows:
                    raise OSError(f"{pairs.metadata.num_rows} rows instead of {receipt.rows}")
                yield from pairs.iter_batches(32, columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise P2PZError(
                    f"{self.store.name(receipt.file)} can't be read ({_first_line(error)}): remove its manifest "
                    "and run translate again."
                ) from error

    def _config(self) -> dict[str, Any]:
        if not self.store.exists("config.yaml"):
            return {}
        try:
            config = yaml.safe_load(self.store.read("config.yaml"))
        except yaml.YAMLError as error:
            raise P2PZError(
                f"{self.store.name('config.yaml')} is not valid YAML: restore the file that translate wrote."
            ) from error
        return config if isinstance(config, dict) else {}

    def _receipts(self) -> tuple[Receipt, ...]:
        """A manifest whose file is gone counts for nothing: its partition will be made again."""
        named = set(self.store.list("manifest"))
        planned = [(f"{partition.id}.json", partition.rows) for partition in self.plan.partitions]
        receipts = [self._receipt(f"manifest/{name}", rows) for name, rows in planned if name in named]
        files = set(self.store.list("data"))
        return tuple(receipt for receipt in receipts if receipt.file.removeprefix("data/") in files)

    def _receipt(self, path: str, images: int) -> Receipt:
        try:
            manifest = json.loads(self.store.read(path))
            times = (manifest.get(key) for key in ("started", "finished"))
            started, finished = (None if time is None else float(time) for time in times)
            return Receipt(str(manifest["file"]), images, int(manifest["rows"]), started, finished)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise P2PZError(
                f"{self.store.name(path)} is not a manifest ({error!r}): remove it and run translate again."
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
