"""Measures the overhead of a run over the work itself, on this machine.

    python jobs/scale.py [overhead] [feeding] [replicas] [plan] [keys] [status] [scores] [memory] [--keys COUNT]

overhead: one replica against a plain loop over the same partitions with the same editor, in turn.
feeding: images a second through a replica whose engine costs nothing, with 1 and 2 cpus in turn, JPEG and PNG of
512 px; and the share of a replica's time that a student of configs/mini takes at 64 px.
replicas: 64 replicas that sleep instead of editing, against the ideal time for as many sleepers.
plan: 1,000,000 images in 10,000 partitions planned, and a run of them begun again when all are committed.
keys: a bucket of COUNT image files (10,000,000) planned by names alone, and a run of them begun again; in a process of
its own, whose peak memory is measured.
status: the status of a run of 156,000 partitions, whose manifests are in one file.
scores: the scores of 10,000,000 simulated pairs, 64 a partition, merged as by evaluation's driver; in a process
of its own.
memory: the growth of the driver's memory from a run of 1,000 images to one of 1,000,000.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from bucket import keys
from feeding import feeding
from measured import PER_PARTITION, ROUNDS, Row, config_of, peak, spread

from p2pz_ray.collection.partition import Partition
from p2pz_ray.collection.schema import collection_schema
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.job import Job

REPLICAS = 64
IMAGES = 16
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c636060600000000400012734270a"
    "0000000049454e44ae426082"
)


class Sleeper:
    """Stands in for a replica: sleeps, then commits a file of one byte."""

    seconds = 0.0

    def __init__(self, job: Job, threads: int) -> None:
        self.job = job
        self.folder = job.folder

    def load(self) -> dict[str, Any]:
        return {"pid": os.getpid()}

    def translate(self, partition: Partition) -> Manifest:
        started = time.time()
        time.sleep(self.seconds)
        rows = partition.rows
        return self.folder.commit(
            partition.id,
            b".",
            images=rows,
            rows=rows,
            failed=0,
            fingerprint=self.job.fingerprint,
            started=started,
            replica=str(os.getpid()),
        )

    @ray.method(concurrency_group="watch")
    def underway(self) -> int:
        return 0


def sleepers(seconds: float) -> None:
    """Have this process's runs use sleepers."""
    from p2pz_ray.translation import replica

    Sleeper.seconds = seconds
    replica.Replica = Sleeper  # type: ignore[assignment,misc]


def write_collection(folder: Path, images: int) -> Path:
    """Parquet with row groups of `PER_PARTITION` images of one pixel, a hundred thousand or fewer a file."""
    folder.mkdir(parents=True)
    schema = collection_schema()
    for number, start in enumerate(range(0, images, 100_000)):
        rows = min(100_000, images - start)
        table = pa.Table.from_pydict(
            {
                "id": [f"image-{start + i:07}" for i in range(rows)],
                "image": [{"bytes": PNG, "path": None}] * rows,
                "caption": ["a cat"] * rows,
            },
            schema,
        )
        pq.write_table(table, folder / f"part-{number:03}.parquet", row_group_size=PER_PARTITION)
    return folder


def overhead(scratch: Path) -> list[Row]:
    """`p2pz translate` with one replica against a loop that reads, decodes, edits, encodes and writes; both on one
    thread, from the first partition's beginning to the last one's end. The model's own speed wavers from minute to
    minute on a shared machine, so both are also compared by what they take in units of their model's time."""
    from p2pz_ray.mini.dataset import write_world
    from p2pz_ray.translation.run import translate

    world = scratch / "world"
    write_world(str(world), IMAGES, seed=1)
    settings = {
        "input": {"uri": str(world), "images_per_partition": IMAGES // 2},
        "replicas": {"count": 1},
        "inversion": {"steps": 20},
    }
    plain, relative = [], []
    for number in range(ROUNDS):
        config = config_of(world, scratch / f"run-{number}", **settings)
        run = translate(config).seconds
        found = _manifests(config)
        loop, loops_model = plain_loop(config_of(world, scratch / f"loop-{number}", **settings))
        plain.append(run / loop)
        relative.append((run / sum(one.seconds["model"] for one in found)) / (loop / loops_model))
    what = f"one replica over a plain loop, {IMAGES} miniature scenes, 20 steps, {ROUNDS} rounds"
    aim = "at most 1.03 x"
    return [(what, f"{spread(plain)} x", aim), ("… each over its model's time", f"{spread(relative)} x", aim)]


def plain_loop(config: TranslateConfig) -> tuple[float, float]:
    """Seconds, and those of them that the model took."""
    import numpy as np
    import torch

    from p2pz_ray import Editor
    from p2pz_ray.collection.reader import read_partition
    from p2pz_ray.engines.direction import load_direction
    from p2pz_ray.engines.seed import image_seed
    from p2pz_ray.picture.codec import DecodePolicy, decode, encode
    from p2pz_ray.translation.pairs import Pairs
    from p2pz_ray.translation.prepare import prepare

    torch.set_num_threads(1)
    prepared = prepare(config)
    assert prepared is not None
    job, plan = prepared
    editor = Editor.from_pretrained("mini", inversion=config.inversion.settings)
    direction = load_direction(job.folder, "cat2dog")
    assert direction is not None
    began, spent = time.perf_counter(), 0.0
    for partition in plan.partitions:
        items = list(read_partition(config.input.uri, partition, job.columns, {}, config.image.max_bytes))
        pixels = np.stack([decode(item.data or b"", DecodePolicy(job.size)) for item in items])
        captions = [item.caption or "" for item in items]
        clock = time.perf_counter()
        edited = editor.edit(editor.invert(pixels, captions, [image_seed(0, item.id) for item in items]), [direction])
        spent += time.perf_counter() - clock
        pairs = Pairs(["cat2dog"], 0, "png")
        for row, (item, before, after) in enumerate(zip(items, pixels, edited, strict=True)):
            pairs.add(row, item.id, item.caption, encode(before), [encode(after[0])])
        Path(config.output, f"{partition.id}.parquet").write_bytes(pairs.to_parquet({}))
    return time.perf_counter() - began, spent


def _manifests(config: TranslateConfig) -> list[Manifest]:
    """Of a run's partitions, in the order in which they ended."""
    folder = RunFolder(config.output)
    plan = folder.plan()
    assert plan is not None
    return sorted(folder.manifests(plan.ids).values(), key=lambda manifest: manifest.finished)


def replicas(scratch: Path, seconds: float = 8.0, rounds: int = 25) -> list[Row]:
    """Sleepers, measured between the first and the last commit of a run's middle, when all of them are loaded."""
    from p2pz_ray.translation.run import translate

    sleepers(seconds)
    collection = write_collection(scratch / "many", PER_PARTITION * REPLICAS * rounds)
    config = config_of(collection, scratch / "slept", replicas={"count": REPLICAS, "cpus": 0.01})
    translate(config)
    found = _manifests(config)
    # From when every replica is at work until the first one runs out of work.
    first: dict[str, float] = {}
    for manifest in found:
        first.setdefault(manifest.replica, manifest.started)
    assert len(first) == REPLICAS, first
    begun, ended = max(first.values()), found[-REPLICAS].finished
    ideal = REPLICAS / seconds * (ended - begun)
    made = sum(begun < manifest.finished <= ended for manifest in found)
    return [(f"{REPLICAS} replicas that sleep {seconds:g} s, over the ideal", f"{made / ideal:.1%}", "at least 95 %")]


def plan(scratch: Path) -> list[Row]:
    from p2pz_ray.translation.prepare import prepare

    collection = write_collection(scratch / "million", 1_000_000)
    config = config_of(collection, scratch / "planned")
    began = time.perf_counter()
    prepared = prepare(config)
    planned = time.perf_counter() - began
    assert prepared is not None
    job, made = prepared
    for partition in made.partitions:
        file = f"data/{partition.id}-0.parquet"
        manifest = Manifest(partition.id, "0", file, 100, 100, 100, 0, "", job.fingerprint, 0.0, 1.0)
        for name, data in ((file, b"."), (f"manifest/{partition.id}.json", json.dumps(asdict(manifest)).encode())):
            target = Path(config.output, name)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(data)
    began = time.perf_counter()
    prepare(config)
    assert len(job.folder.manifests(made.ids)) == len(made.partitions)
    resumed = time.perf_counter() - began
    what = f"1,000,000 images in {len(made.partitions):,} partitions"
    return [(f"{what}: planned", f"{planned:.1f} s", ""), (f"{what}: begun again", f"{resumed:.1f} s", "at most 10 s")]


def status(scratch: Path) -> list[Row]:
    from p2pz_ray.collection.partition import Plan, Source
    from p2pz_ray.translation.status import status as look

    folder = RunFolder(str(scratch / "run"))
    sources = (Source(f"part-{i // 100:05}.parquet", "1-1", None, i % 100, 0, 64, i % 100 * 64) for i in range(156_000))
    made = Plan(tuple(Partition.of("parquet", [source]) for source in sources))
    folder.create_plan(made)
    manifests = {}
    for name in ("data", "manifest"):
        (scratch / "run" / name).mkdir()
    for partition in made.partitions:
        file = f"data/{partition.id}-0.parquet"
        manifest = Manifest(partition.id, "0", file, 64, 64, 64, 0, "0" * 64, "f", 0.0, 1.0, {"model": 0.5})
        Path(folder.uri, file).touch()
        Path(folder.uri, "manifest", f"{partition.id}.json").touch()  # what is sealed isn't read
        manifests[partition.id] = manifest
    folder.seal(manifests)
    began = time.perf_counter()
    assert look(folder.uri).done == made.images
    took = time.perf_counter() - began
    return [(f"status of {len(made.partitions):,} manifests, sealed", f"{took:.1f} s", "at most 5 s")]


def scores(scratch: Path) -> list[Row]:
    with multiprocessing.get_context("spawn").Pool(1) as elsewhere:
        return elsewhere.apply(_scores, (10_000_000,))


def _scores(pairs: int, partition: int = 64) -> list[Row]:
    import numpy as np

    from p2pz_ray.evaluation.sums import Sums

    rng = np.random.default_rng(0)
    idle = peak()
    sums, spent = Sums(), 0.0
    for first in range(0, pairs, partition):
        # Two edits of each image, and scores such as CLIP's, a distance and a share.
        columns = {"id": [f"image-{first // 2 + i // 2:08}" for i in range(partition)], "edit": ["dog", "fox"] * 32}
        columns |= {"clip_target": rng.normal(25, 3, partition), "structure": rng.gamma(2, 0.02, partition)}
        columns |= {"judge_target": (rng.random(partition) < 0.9).astype(float)}
        made = {f"score:{name}": "somebody" for name in list(columns)[2:]}
        of_replica = Sums.of(f"{first:016x}", pa.table(columns).replace_schema_metadata(made))
        began = time.perf_counter()
        sums.add(of_replica)
        spent += time.perf_counter() - began
    assert sums.rows == sums.estimates()["structure"].count == pairs
    what = f"scores of {pairs:,} pairs merged"
    return [
        (f"{what}: memory of the driver", f"{peak():,.0f} MB, {idle:,.0f} of them before", "at most 1,000 MB"),
        ("… time for that", f"{spent:.0f} s", ""),
    ]


def memory(scratch: Path) -> list[Row]:
    """This process is the driver: what its peak grows by when a small run is followed by a large one."""
    from p2pz_ray.translation.run import translate

    sleepers(0.0)
    peaks = []
    for images in (1_000, 1_000_000):
        folder = scratch / f"of-{images}"
        with multiprocessing.get_context("spawn").Pool(1) as elsewhere:  # drawing it is no part of the driver's
            elsewhere.apply(write_collection, (folder / "world", images))
        config = config_of(folder / "world", folder / "run", replicas={"count": 8, "cpus": 0.1})
        assert translate(config).images == images
        peaks.append(peak())
    what = "the driver's memory, 1,000,000 images over 1,000"
    return [(what, f"{peaks[1] - peaks[0]:+.0f} MB of {peaks[0]:.0f}", "at most 200 MB")]


MEASURES: dict[str, Callable[..., list[Row]]] = {
    "overhead": overhead,
    "feeding": feeding,
    "replicas": replicas,
    "plan": plan,
    "keys": keys,
    "status": status,
    "scores": scores,
    "memory": memory,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)}; all by default")
    parser.add_argument("--keys", type=int, metavar="COUNT", default=10_000_000, help="image files of `keys`")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.what if name not in MEASURES]
    if unknown:
        parser.error(f"there is no measure {unknown[0]}: choose of {', '.join(MEASURES)}")
    print("| what | measured | aim |\n|---|---|---|")
    for name in given.what or MEASURES:
        with tempfile.TemporaryDirectory() as scratch:
            more = (given.keys,) if name == "keys" else ()
            for row in MEASURES[name](Path(scratch), *more):
                print(f"| {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
