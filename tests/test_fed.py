"""A replica whose engine costs nothing: what it is fed with and what is behind it run beside one another."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pz_ray.collection import Partition, StorageError, Store, encode, make_plan
from p2pz_ray.collection.in_order import in_order
from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.edited import Edited, Picture
from p2pz_ray.engines.job import Job
from p2pz_ray.translation import translator as module
from p2pz_ray.translation.line import Line
from p2pz_ray.translation.translator import Translator

PNG = encode(np.full((16, 16, 3), 90, np.uint8))
LONG = 60.0
"""Seconds after which a test that waits in vain fails."""


class Free:
    """An engine that returns what it is given. entered: called with a partition when its turn begins."""

    def __init__(self, entered: Callable[[Partition], None] = lambda _: None) -> None:
        self.entered = entered
        self.owner = 0
        self.edited = Counter[str]()

    def begin(self, partition: Partition) -> None:
        self.owner = threading.get_ident()
        self.entered(partition)

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        assert self.owner == threading.get_ident(), "two partitions are with the engine"
        self.edited.update(picture.id for picture in pictures)
        return [Edited("a cat", picture.pixels[None]) for picture in pictures]

    def end(self) -> None:
        self.owner = 0


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Translator, Free, tuple[Partition, ...]]]:
    """A translator with a free engine, and four partitions of three pictures."""
    folder = Store(str(tmp_path / "in"))
    for i in range(12):
        folder.write(f"{i:02}.png", PNG if i != 4 else b"no picture")
    engine = Free()
    monkeypatch.setattr(module, "load_engine", lambda job, device: engine)
    config = TranslateConfig.model_validate(
        {
            "input": {"uri": folder.uri},
            "edits": {"cat2dog": {"source": "cat", "target": "dog"}},
            "output": str(tmp_path / "run"),
            "replicas": {"cpus": 2},
        }
    )
    plan = make_plan(folder.uri, images_per_partition=3)
    translator = Translator(Job(config, (16, 16), "f"))
    yield translator, engine, tuple(plan.partitions)
    translator.hands.shutdown()


def test_the_next_is_read_and_edited_while_the_last_is_written(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, engine, (first, second, *_) = made
    began = threading.Event()
    engine.entered = lambda partition: began.set() if partition.id == second.id else None
    commit = translator.job.folder.commit

    def slow(partition: str, data: bytes, **more: Any) -> Any:
        if partition == first.id:
            assert began.wait(LONG), "the second waits until the first is written"
        return commit(partition, data, **more)

    monkeypatch.setattr(translator.job.folder, "commit", slow)
    with ThreadPoolExecutor(2) as replica:
        written = [manifest.partition for manifest in replica.map(translator.translate, (first, second))]
    assert written == [first.id, second.id]
    assert translator.underway == 0


def test_many_at_once_are_each_edited_once_and_rows_keep_their_order(made: Any) -> None:
    translator, engine, partitions = made
    with ThreadPoolExecutor(4) as replica:
        manifests = list(replica.map(translator.translate, partitions))
    assert [(manifest.images, manifest.failed) for manifest in manifests] == [(3, 0), (3, 1), (3, 0), (3, 0)]
    assert set(engine.edited.values()) == {1}
    import pyarrow.parquet as pq

    ids = [id for one in manifests for id in pq.read_table(f"{translator.job.folder.uri}/{one.file}")["id"].to_pylist()]
    assert ids == [f"{i:02}.png" for i in range(12)]


def test_one_that_can_not_be_read_gives_way_to_the_others(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, _engine, partitions = made
    read = module.read_partition

    def failing(uri: str, partition: Partition, *more: Any) -> Any:
        items = read(uri, partition, *more)
        yield next(items)
        if partition.id == partitions[0].id:
            raise StorageError("It is away.")
        yield from items

    monkeypatch.setattr(module, "read_partition", failing)
    with ThreadPoolExecutor(4) as replica:
        begun = [replica.submit(translator.translate, partition) for partition in partitions]
        with pytest.raises(StorageError, match="It is away"):
            begun[0].result(LONG)
        assert [future.result(LONG).images for future in begun[1:]] == [3, 3, 3]


def test_while_the_storage_is_away_nothing_is_edited_again(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    translator, engine, partitions = made
    write, away = Store.write, [True]

    def failing(store: Store, path: str, data: bytes) -> None:
        if away[0]:
            raise StorageError("It is away.")
        write(store, path, data)

    monkeypatch.setattr(Store, "write", failing)
    for _ in range(5):  # as the pool has a replica try the two that it has
        for partition in partitions[:2]:
            with pytest.raises(StorageError):
                translator.translate(partition)
    away[0] = False
    assert [translator.translate(partition).images for partition in partitions] == [3, 3, 3, 3]
    assert set(engine.edited.values()) == {1}


def test_a_line_keeps_its_order_and_who_leaves_early_holds_nobody_up() -> None:
    line, order = Line(), list[int]()
    tickets = [line.join() for _ in range(4)]
    line.leave(tickets[1])
    with ThreadPoolExecutor(3) as others:

        def one(number: int) -> None:
            line.wait(tickets[number])
            order.append(number)
            line.leave(tickets[number])

        for future in [others.submit(one, number) for number in (3, 2, 0)]:
            future.result(LONG)
    assert order == [0, 2, 3]


def test_results_come_in_order_and_so_do_errors() -> None:
    begun: list[int] = []

    def call(number: int) -> int:
        begun.append(number)
        if number == 7:
            raise ValueError("seven")
        return number * 2

    def numbers(count: int) -> Iterator[int]:
        yield from range(count)
        raise KeyError("the end")

    with ThreadPoolExecutor(4) as threads:
        assert list(in_order(call, range(5), threads, 3)) == [0, 2, 4, 6, 8]
        some = in_order(call, numbers(5), threads, 100)
        assert [next(some) for _ in range(5)] == [0, 2, 4, 6, 8]
        with pytest.raises(KeyError, match="the end"):
            next(some)
        some = in_order(call, range(100), threads, 3)
        assert [next(some) for _ in range(7)] == [0, 2, 4, 6, 8, 10, 12]
        with pytest.raises(ValueError, match="seven"):
            next(some)
    assert max(begun) <= 9


def test_pictures_of_a_remote_folder_are_read_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from p2pz_ray.collection import read_partition

    folder = Store("memory://fed/in")
    for i in range(8):
        folder.write(f"{i}.png", PNG)
    together = threading.Barrier(8)
    read = Store.read

    def waiting(store: Store, *more: Any) -> bytes:
        together.wait(LONG)  # passes when all eight are under way
        return read(store, *more)

    [partition] = make_plan(folder.uri).partitions
    monkeypatch.setattr(Store, "read", waiting)
    assert [item.id for item in read_partition(folder.uri, partition)] == [f"{i}.png" for i in range(8)]
    folder.fs.rm("/fed", recursive=True)
