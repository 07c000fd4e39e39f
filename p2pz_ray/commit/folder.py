"""A run's folder, and the protocol by which partitions are committed to it, on any storage.

    RUN/config.yaml       the configuration, with all defaults
    RUN/ingredients.json  the fingerprint of the model, the digests of the directions
    RUN/directions/       {digest}.safetensors, the directions in use
    RUN/plan.json         the partitions; plan.2.json and so on those that were appended
    RUN/plan/             *.parquet, the partitions, if there are too many for plan.json
    RUN/data/             {partition}-{attempt}.parquet, each written whole
    RUN/manifest/         {partition}.json, written after its data: a file in data/ counts only if a manifest names it
    RUN/manifests.json.gz copies of most manifests in one file, written by the driver, which is faster to read
    RUN/_SUCCESS          written last: the summary; then nothing changes unless partitions are appended

Files on which two writers could disagree are created only if they don't exist: the first writer's file stays, and the
second writer uses it. So the second writer of a partition finds the first one's manifest, returns it and removes its
own data file.
"""

import gc
import gzip
import hashlib
import itertools
import json
import sys
import time
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import yaml

from p2pz_ray.collection.partition import Plan
from p2pz_ray.collection.shards import FOLDER as SHARDS
from p2pz_ray.collection.shards import Shards
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.errors import P2PZError
from p2pz_ray.storage.failure import MissingFileError
from p2pz_ray.storage.store import Store

INGREDIENTS = "ingredients.json"
SEALED = "manifests.json.gz"
DONE = "_SUCCESS"
PLANS = "plans"
"""The key there for the number of plans that the run had when it was finished."""
READERS = 16
"""Manifests read at once."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within, the garbage collector is off: it would slow down the creation of very many small objects."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


_FIELDS = [one.name for one in fields(Manifest)]


class RunFolder:
    """A run's folder at any fsspec URI."""

    def __init__(self, uri: str, storage_options: dict[str, Any] | None = None) -> None:
        self.uri = uri
        self.store = Store(uri, storage_options)

    @property
    def finished(self) -> bool:
        """Whether the run is marked as finished, including everything appended to it."""
        marked = self.read_json(DONE)
        return marked is not None and marked.get(PLANS, sys.maxsize) >= len(self._plan_names())

    def summary(self) -> dict[str, Any] | None:
        """The summary that the run was finished with, or None."""
        found: dict[str, Any] | None = self.read_json(DONE)
        return found and {name: value for name, value in found.items() if name != PLANS}

    def config(self) -> dict[str, Any] | None:
        """The recorded configuration, or None if the folder has no run."""
        if not self.store.exists("config.yaml"):
            return None
        return self._parsed_config(self.store.read("config.yaml"))

    def _parsed_config(self, data: bytes) -> dict[str, Any]:
        found = yaml.safe_load(data)
        if not isinstance(found, dict):
            raise P2PZError(
                f"{self.store.name('config.yaml')} holds no configuration: restore it or choose another output."
            )
        return found

    def create_config(self, record: dict[str, Any]) -> dict[str, Any]:
        """Record a configuration unless there is one; returns the recorded one."""
        data = yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode()
        return self._parsed_config(self.store.create("config.yaml", data))

    def read_json(self, path: str) -> Any:
        """The content of a JSON file of the run, or None if there is none."""
        if not self.store.exists(path):
            return None
        return self._parsed(path, self.store.read(path))

    def write_json(self, path: str, value: Any) -> None:
        self.store.write(path, json.dumps(value, indent=1).encode())

    def create_json(self, path: str, value: Any) -> Any:
        """Write a JSON file unless there is one; returns the value in the file."""
        return self._parsed(path, self.store.create(path, json.dumps(value, indent=1).encode()))

    def _parsed(self, path: str, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise P2PZError(f"{self.store.name(path)} is not valid JSON ({error}): remove it and run again.") from error

    def plan(self) -> Plan | None:
        """The recorded plan with everything appended to it, or None if there is none yet."""
        plan = None
        for name in self._plan_names():
            part = self._planned(self.store.read(name))
            plan = part if plan is None else plan + part
        return plan

    def _planned(self, data: bytes) -> Plan:
        return Plan.from_json(data, partial(Shards.of_record, self.store))

    @_uncollected()
    def outline(self) -> tuple[list[str], int] | None:
        """The ids of the recorded plan's partitions and its number of images, or None if there is none yet."""
        names = self._plan_names()
        parts = [Plan.outline(self.store.read(name)) for name in names]
        return ([id for ids, _ in parts for id in ids], sum(images for _, images in parts)) if names else None

    def create_plan(self, plan: Plan) -> Plan:
        """Record a plan unless there is one; returns the recorded one."""
        return self._put_plan("plan.json", plan)

    def append(self, more: Plan) -> Plan:
        """Add partitions to the plan and return all of it; a finished run is then unfinished again. Raises P2PZError if
        another driver appends at the same time."""
        self.store.remove(DONE)
        standing = self._put_plan(f"plan.{len(self._plan_names()) + 1}.json", more)
        if standing.ids != more.ids:
            raise P2PZError(f"Another driver appends to {self.uri} too: run the same command again.")
        plan = self.plan()
        assert plan is not None
        return plan

    def _put_plan(self, name: str, plan: Plan) -> Plan:
        """Write a plan unless there is one, its shards first; returns the recorded one."""
        before = self.store.list(SHARDS)
        if isinstance(plan.partitions, Shards):
            plan = replace(plan, partitions=plan.partitions.copied(self.store, uuid.uuid4().hex[:12]))
        standing, mine = self._planned(self.store.create(name, plan.to_json().encode())), _shards(plan)
        gone = mine
        if mine and mine == _shards(standing):
            # Older shards that no plan names belong to a driver that was killed or is now too late.
            named = (self._planned(self.store.read(other)) for other in self._plan_names())
            gone = set(before).difference(*map(_shards, named))
        for shard in sorted(gone):
            self.store.remove(f"{SHARDS}/{shard}")
        return standing

    def _plan_names(self) -> list[str]:
        there = set(self.store.list())
        names = itertools.chain(["plan.json"], (f"plan.{number}.json" for number in itertools.count(2)))
        return list(itertools.takewhile(there.__contains__, names))

    def manifest(self, partition: str) -> Manifest | None:
        """The manifest of a partition, None if it isn't committed."""
        for number in itertools.count(1):
            path = _path(partition, number)
            found = self.read_json(path)
            if found is None:
                return None
            manifest = self._manifest(path, found)
            if self.store.exists(manifest.file):
                return manifest
        raise AssertionError("unreachable")

    @_uncollected()
    def manifests(self, partitions: Sequence[str], fingerprint: str | None = None) -> dict[str, Manifest]:
        """Partition id → manifest, for those of `partitions` that are committed and whose file exists.

        Raises P2PZError if one was made by another job than that of `fingerprint`.
        """
        paths = defaultdict(list)
        for name in self.store.list("manifest"):
            paths[name.partition(".")[0]].append(f"manifest/{name}")
        # Listed after the manifests, since data is written first.
        files = {f"data/{name}" for name in self.store.list("data")}
        # Manifests never change, but a user may have removed one, or its file, to have the partition made again.
        held = {m.partition: m for m in self._sealed() if m.partition in paths and m.file in files}
        # The first one last: it counts if a partition has several, which should not happen.
        left = [id for id in partitions if id not in held]
        wanted = [path for id in left for path in sorted(paths[id], key=lambda path: (len(path), path))[::-1]]
        with ThreadPoolExecutor(READERS) as readers:  # remote storage is slow per request, but takes many at once
            found = list(readers.map(lambda path: self._manifest(path, self.read_json(path)), wanted))
        for path, manifest in zip(wanted, found, strict=True):
            self._check(path, manifest, fingerprint)
        held |= {m.partition: m for m in found if m.file in files}
        return {id: self._check(_path(id), held[id], fingerprint) for id in partitions if id in held}

    def seal(self, manifests: dict[str, Manifest]) -> None:
        """Write these manifests to one file, so that they needn't be read one by one."""
        if manifests:
            record = {name: [getattr(each, name) for each in manifests.values()] for name in _FIELDS}
            self.store.write(SEALED, gzip.compress(json.dumps(record).encode(), compresslevel=1, mtime=0))
        else:
            self.store.remove(SEALED)

    def _sealed(self) -> list[Manifest]:
        """The manifests in that file; none if there is no such file or it can't be read."""
        try:
            record = json.loads(gzip.decompress(self.store.read(SEALED)))
            return [Manifest(*row) for row in zip(*(record[name] for name in _FIELDS), strict=True)]
        except (MissingFileError, OSError, EOFError, ValueError, LookupError, TypeError, zlib.error):
            return []

    def standing(self, partition: str, fingerprint: str) -> Manifest | None:
        """The manifest of a partition, None if it isn't committed. Raises P2PZError if another job made it."""
        manifest = self.manifest(partition)
        return None if manifest is None else self._check(_path(partition), manifest, fingerprint)

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
        device: str = "",
        dtype: str = "",
        flagged: int = 0,
    ) -> Manifest:
        """Write a partition's Parquet file and then its manifest; returns the manifest that counts."""
        other = self.standing(partition, fingerprint)
        if other is not None:
            return other
        attempt = uuid.uuid4().hex[:12]
        file = f"data/{partition}-{attempt}.parquet"
        mine = Manifest(
            partition=partition,
            attempt=attempt,
            file=file,
            images=images,
            rows=rows,
            ok=rows - failed - flagged,
            failed=failed,
            sha256=hashlib.sha256(data).hexdigest(),
            fingerprint=fingerprint,
            started=started,
            finished=time.time(),
            seconds=seconds or {},
            replica=replica,
            device=device,
            dtype=dtype,
            flagged=flagged,
        )
        self.store.write(file, data)
        for number in itertools.count(1):
            path = _path(partition, number)
            standing = self._manifest(path, self.create_json(path, asdict(mine)))
            if standing.attempt == attempt:  # also if the storage created it, but its answer was lost
                return mine
            if self.store.exists(standing.file):
                self.store.remove(file)
                return self._check(path, standing, fingerprint)
            # A user removed the first manifest's file, so that manifest is void: the next one counts.
        raise AssertionError("unreachable")

    def finish(self, plan: Plan, summary: dict[str, Any]) -> None:
        """Remove data files that no manifest names, then mark the run as finished. All partitions must be committed, by
        one job."""
        plans, manifests = len(self._plan_names()), self.manifests(plan.ids)
        missing = len(plan.partitions) - len(manifests)
        if missing:
            raise P2PZError(
                f"{missing} partitions of {self.uri} lost their files while it ran: run the same command again."
            )
        current = self.plan()
        if current is not None and len(current.partitions) > len(plan.partitions):
            raise P2PZError(f"Another driver appended to {self.uri} while it ran: run the same command again.")
        first = next(iter(manifests.values()))
        for manifest in manifests.values():
            self._check(_path(manifest.partition), manifest, first.fingerprint)
        self._sweep(manifests)
        self.seal(manifests)
        mark = {**summary, PLANS: plans}
        if self.create_json(DONE, mark).get(PLANS, plans) < plans:
            self.write_json(DONE, mark)  # replaces the mark of a driver that finished before the append

    def sweep(self) -> None:
        """Remove files that killed writers left in a finished run."""
        plan = self.plan()
        if plan is not None:
            more = len(self.store.list("data")) != len(plan.partitions)
            self._sweep(self.manifests(plan.ids) if more else {})

    def _sweep(self, manifests: dict[str, Manifest]) -> None:
        """Remove files of these partitions that their manifests don't name, and half-written files."""
        for name in self.store.list("data"):
            manifest = manifests.get(name.partition("-")[0])
            if manifest and manifest.file != f"data/{name}":
                self.store.remove(f"data/{name}")
        for folder in ("", SHARDS, "data", "manifest", "directions"):
            self.store.sweep(folder)

    def _manifest(self, path: str, found: Any) -> Manifest:
        try:
            return Manifest(**found)
        except TypeError as error:
            raise P2PZError(f"{self.store.name(path)} is not a manifest: remove it and run again.") from error

    def _check(self, path: str, manifest: Manifest, fingerprint: str | None) -> Manifest:
        if fingerprint is not None and manifest.fingerprint != fingerprint:
            raise P2PZError(
                f"{self.store.name(path)} was made by another configuration, model or direction: remove it, or choose "
                "another output."
            )
        return manifest


def _shards(plan: Plan) -> set[str]:
    """The file names of a plan's shards."""
    held = plan.partitions.shards if isinstance(plan.partitions, Shards) else ()
    return {shard.file.removeprefix(f"{SHARDS}/") for shard in held}


def _path(partition: str, number: int = 1) -> str:
    """The path of a partition's manifest. Numbers above 1 are used only if the files of all earlier ones were
    removed."""
    return f"manifest/{partition}.json" if number == 1 else f"manifest/{partition}.{number}.json"
