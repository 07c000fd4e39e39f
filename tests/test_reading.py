"""What reading a collection asks of its storage: each byte once, however a table is cut into partitions."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p2pz_ray.collection import IMAGE, Plan, Store, make_plan, read_partition, table_format

ROWS = 1100
PICTURE = 4000  # bytes


class Counted:
    """The requests of a storage, by kind, and the bytes that they returned."""

    def __init__(self, fs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes = 0
        for name in ("info", "cat_file", "find", "ls", "open"):
            monkeypatch.setattr(fs, name, self._counting(name, getattr(fs, name)), raising=False)

    def _counting(self, name: str, call: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            found = call(*arguments, **options)
            self.calls[name] += 1
            self.bytes += len(found) if name == "cat_file" else 0
            return found

        return counted

    def forget(self) -> None:
        self.calls.clear()
        self.bytes = 0


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Store]:
    store = Store(f"memory://reading/{request.node.name.replace('[', '-').replace(']', '').replace(' ', '-')}")
    yield store
    store.fs.rm(store.root, recursive=True)


@cache
def table() -> pa.Table:
    rng = np.random.default_rng(0)
    pictures = [{"bytes": rng.bytes(PICTURE), "path": None} for _ in range(ROWS)]
    return pa.table({"id": [f"i{i}" for i in range(ROWS)], "image": pa.array(pictures, IMAGE)})


def encoded(form: str, piece: int) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    if form == "parquet":
        pq.write_table(table(), buffer, row_group_size=piece, use_dictionary=False, write_batch_size=16)
        return "a.parquet", buffer.getvalue()
    new = pa.ipc.new_stream if form == "arrow stream" else pa.ipc.new_file
    with new(buffer, table().schema) as writer:
        writer.write_table(table(), max_chunksize=piece)
    return "a.arrow", buffer.getvalue()


def read(uri: str, plan: Plan) -> list[tuple[str, bytes | None]]:
    return [(item.id, item.data) for part in plan.partitions for item in read_partition(uri, part)]


@pytest.mark.parametrize("stepwise", [False, True], ids=["whole", "in steps"])
@pytest.mark.parametrize("piece", [64, 1024, ROWS])
@pytest.mark.parametrize("form", ["parquet", "arrow file", "arrow stream"])
def test_a_table_is_read_once_however_many_partitions_it_has(
    folder: Store, form: str, piece: int, stepwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stepwise:  # as row groups are that are larger than a test can be
        monkeypatch.setattr(table_format, "_WHOLE_BYTES", 0)
        monkeypatch.setattr(table_format, "_BUFFER_BYTES", 100_000)
    name, data = encoded(form, piece)
    folder.write(name, data)
    storage = Counted(folder.fs, monkeypatch)
    plan = make_plan(folder.uri, images_per_partition=40)
    assert len(plan.partitions) > 16
    # Only a stream must be gone through to know what is in it.
    assert storage.bytes <= (1.1 if form == "arrow stream" else 0.3) * len(data)
    storage.forget()
    expected = table()
    assert read(folder.uri, plan) == list(
        zip(expected["id"].to_pylist(), [image["bytes"] for image in expected["image"].to_pylist()], strict=True)
    )
    assert storage.bytes <= 1.1 * len(data)


def test_partitions_in_any_order_read_their_own_rows(folder: Store) -> None:
    for form in ("parquet", "arrow file", "arrow stream"):
        name, data = encoded(form, 300)
        folder.write(f"{form}/{name}", data)
        uri = f"{folder.uri}/{form}"
        plan = make_plan(uri, images_per_partition=50)
        alone = {part.id: list(read_partition(uri, part)) for part in plan.partitions}
        for part in np.random.default_rng(1).permutation(np.array(plan.partitions, object))[:12]:
            next(read_partition(uri, part))  # one that is given up after its first row
            assert list(read_partition(uri, part)) == alone[part.id]


def test_an_image_file_is_one_request(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        folder.write(f"{i:02}.png", bytes(1000))
    plan = make_plan(folder.uri, images_per_partition=8)
    read(folder.uri, Plan(plan.partitions[:1]))  # where the folder is, is asked for once
    storage = Counted(folder.fs, monkeypatch)
    read(folder.uri, plan)
    assert storage.calls == {"cat_file": 40}


@pytest.mark.parametrize("picture", [1000, 600_000], ids=["small pictures", "large pictures"])
def test_a_tar_is_read_once_and_planned_by_its_headers_where_pictures_are_large(
    folder: Store, picture: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(24):
            for part, data in (("png", bytes([i]) * picture), ("txt", b"a cat")):
                member = tarfile.TarInfo(f"{i:02}.{part}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    folder.write("a.tar", buffer.getvalue())
    storage = Counted(folder.fs, monkeypatch)
    plan = make_plan(folder.uri, images_per_partition=5)
    assert storage.bytes <= (1.1 if picture < 100_000 else 0.15) * len(buffer.getvalue())
    storage.forget()
    assert read(folder.uri, plan) == [(f"a.tar/{i:02}", bytes([i]) * picture) for i in range(24)]
    assert storage.bytes <= len(buffer.getvalue())
    assert storage.calls["cat_file"] == len(plan.partitions)
