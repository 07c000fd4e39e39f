"""A bucket of ten million image files, planned by names alone."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem
from measured import Row, config_of, peak

from p2pz_ray.commit.manifest import Manifest


class Keys(AbstractFileSystem):  # type: ignore[misc]
    """A storage of image files that have names, sizes and ETags and no content, 10,000 in each of its folders."""

    protocol = "keys"
    cachable = False
    count = 10_000_000
    folder = 10_000

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        name = self._strip_protocol(path)
        if "/" not in name:
            folders = range(0, self.count, self.folder)
            return [{"name": f"{name}/{i:010}", "size": 0, "type": "directory"} for i in folders]
        first = int(name.rpartition("/")[2])
        numbers = range(first, min(self.count, first + self.folder))
        return [
            {"name": f"{name}/{i:012}.jpg", "size": i + 10, "type": "file", "ETag": f'"{i * 0x9E3779B97F4A7C15:032x}"'}
            for i in numbers
        ]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}


def keys(scratch: Path, count: int = 10_000_000) -> list[Row]:
    with multiprocessing.get_context("spawn").Pool(1) as elsewhere:
        return elsewhere.apply(_keys, (scratch, count))


def _keys(scratch: Path, count: int) -> list[Row]:
    from p2pz_ray.storage.store import Store
    from p2pz_ray.translation.prepare import prepare

    Keys.count = count
    fsspec.register_implementation("keys", Keys)
    images = 64
    config = config_of(Path(), scratch / "run", input={"uri": "keys://bucket", "images_per_partition": images})
    idle = peak()
    began = time.perf_counter()
    prepared = prepare(config)
    planned, most = time.perf_counter() - began, peak()
    assert prepared is not None
    job, made = prepared
    ids = made.ids
    manifests = {
        id: Manifest(id, "0", f"data/{id}-0.parquet", images, images, images, 0, "0" * 64, job.fingerprint, 0.0, 1.0)
        for id in ids[: len(ids) // 2]
    }
    for manifest in manifests.values():
        for name in (manifest.file, f"manifest/{manifest.partition}.json"):
            target = scratch / "run" / name
            target.parent.mkdir(exist_ok=True)
            target.touch()  # what is sealed isn't read
    job.folder.seal(manifests)
    read: set[str] = set()
    opened = Store._open_local

    def counting(store: Store, path: str) -> Any:
        read.add(store.full(path))
        return opened(store, path)

    Store._open_local = counting  # type: ignore[method-assign]
    began = time.perf_counter()
    prepared = prepare(config)
    assert prepared is not None
    job, made = prepared
    done = job.folder.manifests(made.ids, job.fingerprint)
    left = [partition for partition in made.partitions if partition.id not in done]
    assert len(left) == len(ids) - len(done)
    assert left[0].whole().id == left[0].id
    resumed = time.perf_counter() - began
    what = f"{count:,} image files in {len(ids):,} partitions"
    return [
        (f"{what}: planned", f"{planned / 60:.1f} min", "at most 10 min"),
        ("… memory of the driver", f"{most:,.0f} MB, {idle:,.0f} of them before", "at most 2,000 MB"),
        ("… begun again, half of them done", f"{resumed:.1f} s", ""),
        ("… files read for that", f"{len(read)}", "at most 20"),
    ]
