"""A plan that is too large for memory stands in shards, and is the same plan."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from p2pz_ray.collection import FileError, Partition, Plan, Source, StorageError, Store, encode, make_plan
from p2pz_ray.collection import shards as shards_module
from p2pz_ray.collection import sorted as sorted_module
from p2pz_ray.collection.schema import Columns
from p2pz_ray.collection.shards import Shards
from p2pz_ray.collection.sorted import Among, Entry, Sorted, by_stem
from p2pz_ray.collection.understood import understood
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.errors import ConfigError

PNG = encode(np.full((8, 8, 3), 90, np.uint8))
NAMES = [f"{folder}/{i:02}.png" for folder in ("b", "a", "a.c") for i in range(20)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test's collection exceeds."""
    monkeypatch.setattr(sorted_module, "HELD", 7)
    monkeypatch.setattr(sorted_module, "_AT_ONCE", 3)
    monkeypatch.setattr(shards_module, "INLINE", 10)
    monkeypatch.setattr(shards_module, "SHARD", 24)
    monkeypatch.setattr(shards_module, "GROUP", 8)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    store = Store(str(tmp_path / "in"))
    for name in NAMES:
        store.write(name, PNG)
    return store.uri


@pytest.fixture
def run() -> Iterator[RunFolder]:
    folder = RunFolder("memory://large/run")
    yield folder
    folder.store.fs.rm("/large", recursive=True)


@pytest.mark.usefixtures("small")
def test_names_come_out_sorted_however_they_came_in_and_as_often_as_wanted() -> None:
    names = Sorted()
    for i in np.random.default_rng(0).permutation(100):
        names.add(Entry(f"{i:03}\udcff", str(i), "broken" if i == 5 else None))
    assert len(names) == 100
    for _ in range(2):
        assert [entry.path for entry in names] == [f"{i:03}\udcff" for i in range(100)]
    assert [entry.problem for entry in names if entry.problem] == ["broken"]
    known = Among(Entry(f"{i:03}\udcff", "") for i in range(0, 100, 2))
    assert [entry.fingerprint for entry in names if entry not in known] == [str(i) for i in range(1, 100, 2)]


def test_names_that_come_in_order_lie_in_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_module, "HELD", 7)
    names = Sorted()
    for i in range(100):
        names.add(Entry(f"{i:03}", ""))
    assert len(names._files) == 1
    assert [entry.path for entry in names] == [f"{i:03}" for i in range(100)]


def test_a_picture_and_its_caption_are_in_one_group_whatever_stands_between_them() -> None:
    names = ["a-b.png", "a.b.png", "a.b.txt", "a.json", "a.k.png", "a.png", "a.txt", "a/x.png", "ab.png"]
    groups = [[entry.path for entry in group] for group in by_stem(Entry(name, "") for name in sorted(names))]
    assert groups == [
        ["a-b.png"],
        ["a.b.png", "a.b.txt"],
        ["a.json", "a.k.png", "a.png", "a.txt"],
        ["a/x.png"],
        ["ab.png"],
    ]


def test_a_plan_in_shards_is_the_plan_in_memory(folder: str, run: RunFolder, request: pytest.FixtureRequest) -> None:
    Store(folder).write("a/07.txt", b"a cat")
    inside = make_plan(folder, images_per_partition=3)
    request.getfixturevalue("small")
    plan = make_plan(folder, images_per_partition=3)
    assert isinstance(plan.partitions, Shards)
    assert plan == inside
    assert (plan.ids, plan.images) == (inside.ids, 60)
    assert pickle.loads(pickle.dumps(plan.partitions[4])) == inside.partitions[4]
    assert [s.path for part in plan.partitions for s in part.sources] == sorted(NAMES)
    assert understood(folder, plan, Columns()) == understood(folder, inside, Columns())
    standing = run.create_plan(plan)
    assert standing == inside
    assert run.plan() == inside
    assert run.outline() == (inside.ids, 60)
    assert len(run.store.list("plan")) == len(standing.partitions.shards) == 3  # type: ignore[attr-defined]


@pytest.mark.usefixtures("small")
def test_the_first_drivers_plan_stands_and_nothing_of_the_others(folder: str, run: RunFolder) -> None:
    first, second = make_plan(folder, images_per_partition=3), make_plan(folder, images_per_partition=4)
    run.store.write("plan/0123456789abcdef.parquet", b"what a killed driver left")
    assert run.create_plan(first) == first
    names = run.store.list("plan")
    assert run.create_plan(second) == first
    assert run.store.list("plan") == names
    assert "0123456789abcdef.parquet" not in names


@pytest.mark.usefixtures("small")
def test_what_is_new_is_appended_to_a_plan_in_shards(folder: str, run: RunFolder) -> None:
    plan = run.create_plan(make_plan(folder, images_per_partition=3))
    for name in ("a/10a.png", "0.png"):
        Store(folder).write(name, PNG)
    assert make_plan(folder, images_per_partition=3, after=plan, max_images=61).images == 1
    together = run.append(make_plan(folder, images_per_partition=3, after=plan))
    assert together.ids[:-1] == plan.ids
    assert [source.path for source in together.partitions[-1].sources] == ["0.png", "a/10a.png"]
    assert (len(together.partitions), together.images) == (21, 62)
    assert make_plan(folder, after=together).partitions == ()


@pytest.mark.usefixtures("small")
def test_a_shard_is_read_when_it_is_asked_for_and_must_be_the_plans(folder: str, run: RunFolder) -> None:
    run.create_plan(make_plan(folder, images_per_partition=3))
    read = run.plan()
    assert read is not None
    names = run.store.list("plan")
    fs = fsspec.filesystem("memory")
    held = {name: fs.cat_file(f"/large/run/plan/{name}") for name in names}
    for name in names:
        fs.pipe_file(f"/large/run/plan/{name}", b"no table")
    handles = list(read.partitions)  # reads nothing
    with pytest.raises(ConfigError, match=r"plan/.*, a part of the plan, can't be read"):
        handles[0].whole()
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        fs.pipe_file(f"/large/run/plan/{name}", held[other])
    with pytest.raises(ConfigError, match="holds other partitions than the plan"):
        handles[0].whole()


@pytest.mark.usefixtures("small")
def test_an_outage_while_a_shard_is_read_is_the_storages(
    folder: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.create_plan(make_plan(folder, images_per_partition=3))
    plan = run.plan()
    assert plan is not None

    def away(*_: object, **__: object) -> None:
        raise StorageError("memory://large can't be read: it is away.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "open", away)
        with pytest.raises(StorageError) as raised:
            plan.partitions[0].whole()
    assert not isinstance(raised.value, FileError | ConfigError)
    assert plan.partitions[0].whole().rows == 3


def test_partitions_of_several_kinds_and_given_names_survive_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "INLINE", 1)
    parts = [
        Partition.of("files", [Source("a\udcff.png", "5-x"), Source("b.png", "", "It is a pipe.")], [(1, "b#2\udc80")]),
        Partition.of("tar", [Source("t.tar", "1-e", None, 1 << 40, 0, 9, 1 << 41)]),
        Partition.of("failed", [Source("f.parquet", "7-f", None, 0, 3, 5)]),
    ]
    found = shards_module.gathered(parts)
    assert isinstance(found, Shards)
    assert list(found) == parts
    assert Plan(found).images == 13
    assert [extent.bytes for extent in found.extents] == [5, 1, 7]
