"""A run's folder, and the protocol by which partitions are committed to it, on any storage.

    RUN/config.yaml       the configuration, with all defaults
    RUN/ingredients.json  what the configuration's files held: the model's fingerprint, the directions' digests
    RUN/directions/       the directions in use
    RUN/plan.json         the partitions
    RUN/data/             {partition}-{attempt}.parquet, each put whole
    RUN/manifest/         {partition}.json, put after its data: a file in data/ counts only if a manifest names it
    RUN/_SUCCESS          put last: the summary; from then on nothing changes

Two writers of a partition are harmless: each writes a file of its own name with the same rows, and the manifest
names one of them.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from p2pz_ray.collection.partition import Partition, Plan
from p2pz_ray.collection.store import Store
from p2pz_ray.errors import P2PZError

READERS = 16
"""Manifests read at once."""


@dataclass(frozen=True)
class Manifest:
    """What one committed partition holds.

    file: relative to the run's folder. images: rows of the collection. rows, ok, failed: pairs.
    sha256: of the file. fingerprint: of the configuration and its ingredients.
    started, finished: seconds since 1970. seconds: where the time went, by stage. replica: which process made it,
    as MACHINE:PID, "" for the driver.
    """

    partition: str
    attempt: str
    file: str
    images: int
    rows: int
    ok: int
    failed: int
    sha256: str
    fingerprint: str
    started: float
    finished: float
    seconds: dict[str, float] = field(default_factory=dict)
    replica: str = ""


class RunFolder:
    """A run's folder at any fsspec URI."""

    def __init__(self, uri: str, storage_options: dict[str, Any] | None = None) -> None:
        self.uri = uri
        self.store = Store(uri, storage_options)

    @property
    def finished(self) -> bool:
        return self.store.exists("_SUCCESS")

    def config(self) -> dict[str, Any] | None:
        """The recorded configuration, None for a folder that holds no run."""
        if not self.store.exists("config.yaml"):
            return None
        found = yaml.safe_load(self.store.read("config.yaml"))
        if not isinstance(found, dict):
            raise P2PZError(
                f"{self.store.name('config.yaml')} holds no configuration: restore it or choose another output."
            )
        return found

    def write_config(self, record: dict[str, Any]) -> None:
        self.store.write("config.yaml", yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode())

    def read_json(self, path: str) -> Any:
        """The content of a JSON file of the run, None where there is none."""
        if not self.store.exists(path):
            return None
        try:
            return json.loads(self.store.read(path))
        except ValueError as error:
            raise P2PZError(f"{self.store.name(path)} is not valid JSON ({error}): remove it and run again.") from error

    def write_json(self, path: str, value: Any) -> None:
        self.store.write(path, json.dumps(value, indent=1).encode())

    def plan(self) -> Plan | None:
        """The recorded plan, None where there is none yet."""
        return Plan.from_json(self.store.read("plan.json")) if self.store.exists("plan.json") else None

    def manifest(self, partition: str) -> Manifest | None:
        """The manifest of a partition, None if it isn't committed."""
        path = f"manifest/{partition}.json"
        found = self.read_json(path)
        if found is None:
            return None
        try:
            return Manifest(**found)
        except TypeError as error:
            raise P2PZError(f"{self.store.name(path)} is not a manifest: remove it and run again.") from error

    def manifests(self, partitions: Iterable[Partition]) -> dict[str, Manifest]:
        """Partition id → manifest, of those of `partitions` that are committed and whose file stands."""
        named = set(self.store.list("manifest"))
        files = set(self.store.list("data"))
        ids = [p.id for p in partitions if f"{p.id}.json" in named]
        with ThreadPoolExecutor(READERS) as readers:  # a remote storage answers slowly, but many at once
            found = list(readers.map(self.manifest, ids))
        return {m.partition: m for m in found if m and m.file.removeprefix("data/") in files}

    def commit(
        self,
        partition: str,
        data: bytes,
        *,
        images: int,
        rows: int,
        failed: int,
        fingerprint: str,
        started: float,
        seconds: dict[str, float] | None = None,
        replica: str = "",
    ) -> Manifest:
        """Put a partition's Parquet file and then its manifest; returns the manifest that stands."""
        attempt = uuid.uuid4().hex[:12]
        file = f"data/{partition}-{attempt}.parquet"
        self.store.write(file, data)
        other = self.manifest(partition)
        if other and other.fingerprint == fingerprint and self.store.exists(other.file):
            # Someone else was faster. Theirs stays: a finished run's manifests must not change any more.
            self.store.remove(file)
            return other
        mine = Manifest(
            partition=partition,
            attempt=attempt,
            file=file,
            images=images,
            rows=rows,
            ok=rows - failed,
            failed=failed,
            sha256=hashlib.sha256(data).hexdigest(),
            fingerprint=fingerprint,
            started=started,
            finished=time.time(),
            seconds=seconds or {},
            replica=replica,
        )
        self.write_json(f"manifest/{partition}.json", asdict(mine))
        if not self.store.exists(file):
            # Another driver finished between our look and our manifest, and took the file for an orphan.
            self.store.write(file, data)
        return mine

    def finish(self, plan: Plan, summary: dict[str, Any]) -> None:
        """Remove what no manifest names, then mark the run as finished. Every partition must be committed."""
        manifests = self.manifests(plan.partitions)
        missing = len(plan.partitions) - len(manifests)
        if missing:
            raise P2PZError(
                f"{missing} partitions of {self.uri} lost their files while it ran: run the same command again."
            )
        kept = {m.file.removeprefix("data/") for m in manifests.values()}
        for name in self.store.list("data"):
            if name not in kept:
                self.store.remove(f"data/{name}")
        planned = {f"{p.id}.json" for p in plan.partitions}
        for name in self.store.list("manifest"):
            if name not in planned:
                self.store.remove(f"manifest/{name}")
        self.write_json("_SUCCESS", summary)

    def sweep(self) -> None:
        """Remove from a finished run what a writer that was killed at the wrong moment put beside it: second files of
        partitions whose manifest names another one."""
        plan = self.plan()
        names = self.store.list("data")
        if plan is None or len(names) == len(plan.partitions):
            return
        for manifest in self.manifests(plan.partitions).values():
            for name in names:
                if name.startswith(f"{manifest.partition}-") and manifest.file != f"data/{name}":
                    self.store.remove(f"data/{name}")
