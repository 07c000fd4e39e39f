"""Every image of a collection is planned once and comes out once: as bytes, or as a sentence on what is wrong."""

import io
import itertools
import os
import tempfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from p2pz_ray.collection import (
    IMAGE,
    Columns,
    DecodePolicy,
    Item,
    Partition,
    Plan,
    Source,
    StorageError,
    Store,
    decode,
    encode,
    make_plan,
    read_partition,
    table_bytes,
)
from p2pz_ray.collection.table_format import BATCH_ROWS
from p2pz_ray.errors import ConfigError, ImageError, P2PZError
from p2pz_ray.storage import store

PNG = encode(np.full((16, 16, 3), 90, np.uint8))


def read(uri: str, plan: Plan, columns: Columns | None = None, **options: Any) -> list[Item]:
    return [item for part in plan.partitions for item in read_partition(uri, part, columns, **options)]


def errors(items: list[Item]) -> dict[str, str]:
    return {item.id: item.error for item in items if item.error is not None}


def assert_good(items: list[Item], ids: list[str]) -> None:
    assert [item.id for item in items] == ids
    assert errors(items) == {}
    assert all(decode(item.data or b"", DecodePolicy((8, 8))).shape == (8, 8, 3) for item in items)


def rows(ids: list[Any], data: bytes = PNG, kind: pa.DataType = IMAGE) -> pa.Table:
    """A collection of pictures that differ by their length, so that a mix-up would be seen."""
    pictures = [data + bytes(i) for i in range(len(ids))]
    images = [{"bytes": p, "path": None} for p in pictures] if pa.types.is_struct(kind) else pictures
    captions = [f"caption {i}" for i in range(len(ids))]
    return pa.table({"id": pa.array(ids), "image": pa.array(images, kind), "caption": captions})


def parquet(table: pa.Table, row_group: int = 1 << 20) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group)
    return buffer.getvalue()


def arrow(table: pa.Table, batch: int = 1 << 20, stream: bool = False, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue().to_pybytes()


@pytest.fixture(params=["local", "memory", "s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any] | None]:
    """URI and options of an empty folder on each kind of storage."""
    if request.param in ("s3", "gs"):
        return f"{request.param}://bucket/{tmp_path.name}", request.getfixturevalue(request.param)
    return (str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"), None


# -- folders of images


def test_a_folder_becomes_its_images_by_path_wherever_it_is(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    folder = Store(uri, options)
    for name in ("b.PNG", "a/z.jpeg", "a/b/c.webp", "a b ü.png", "notes.txt", ".hidden.png", "a/.cache/x.png"):
        folder.write(name, PNG)
    plan = make_plan(uri, storage_options=options, images_per_partition=3)
    assert_good(read(uri, plan, storage_options=options), ["a b ü.png", "a/b/c.webp", "a/z.jpeg", "b.PNG"])
    assert [part.rows for part in plan.partitions] == [3, 1]
    assert (plan.images, plan.skipped) == (4, 3)


def test_a_bucket_is_listed_page_by_page(s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Store(f"s3://bucket/{tmp_path.name}", s3)
    names = [f"{i // 3}/{i}.png" for i in range(7)]
    for name in names:
        folder.write(name, PNG)
    folder.fs.call_s3("put_object", Bucket="bucket", Key=f"{tmp_path.name}/empty/", Body=b"")
    asked: list[str] = []
    call = folder.fs.call_s3

    def in_twos(method: str, **options: Any) -> Any:
        asked.append(method)
        return call(method, **options, MaxKeys=2)

    monkeypatch.setattr(folder.fs, "call_s3", in_twos)
    plan = make_plan(folder.uri, storage_options=s3)
    assert [source.path for part in plan.partitions for source in part.sources] == names
    assert asked == ["list_objects_v2"] * 4
    assert plan.skipped == 0
    assert_good(read(folder.uri, plan, storage_options=s3), names)


def test_a_file_and_a_glob_are_collections_too(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    for name in ("a.png", "b.png", "x/c.png", "x/y/d.png", "b.jpg"):
        Store(uri, options).write(name, PNG)

    def ids(tail: str) -> list[str]:
        where = f"{uri}/{tail}"
        return [item.id for item in read(where, make_plan(where, storage_options=options), storage_options=options)]

    assert ids("a.png") == ["a.png"]
    assert ids("*.png") == ["a.png", "b.png"]
    assert ids("**/*.png") == ["a.png", "b.png", "x/c.png", "x/y/d.png"]
    assert ids("x/*/?.png") == ["y/d.png"]
    assert ids("[b-z].*") == ["b.jpg", "b.png"]


def test_a_folder_with_magic_in_its_name_is_a_folder(tmp_path: Path) -> None:
    for name in ("photos [2024]/a*.png", "photos [2024]/ab.png", "photos 2/b.png"):
        Store(str(tmp_path)).write(name, PNG)
    assert make_plan(f"{tmp_path}/photos [2024]").images == 2
    uri = f"{tmp_path}/photos [2024]/a*.png"
    assert_good(read(uri, make_plan(uri)), ["a*.png"])


def test_twenty_kinds_of_broken_input_are_each_a_row_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()

    def put(name: str | bytes, data: bytes = PNG) -> None:
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())
        with open(path, "wb") as file:
            file.write(data)

    def saved(image: Image.Image, format: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    grey = Image.new("L", (20, 20), 120)
    put("good.png")
    put("cmyk.jpg", saved(Image.new("CMYK", (20, 20)), "JPEG"))
    put("animated.gif", saved(grey, "GIF", save_all=True, append_images=[Image.new("L", (20, 20))]))
    put("sixteen.png", saved(Image.fromarray(np.full((20, 20), 40_000, np.uint16)), "PNG"))
    put("grey.png", saved(grey, "PNG"))
    put("alpha.png", saved(Image.new("RGBA", (20, 20), (1, 2, 3, 4)), "PNG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    put("turned.jpg", saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    put("ユニコード 🐈 \n.png")
    put("l" * 251 + ".png")
    put(b"caf\xe9.png")
    os.symlink("good.png", folder / "link.png")
    good = {
        *("good.png", "cmyk.jpg", "animated.gif", "sixteen.png", "grey.png", "alpha.png", "turned.jpg"),
        *("ユニコード 🐈 \n.png", "l" * 251 + ".png", "caf\\xe9.png", "link.png"),
    }
    put("zero.png", b"")
    put("truncated.png", saved(Image.effect_noise((64, 64), 90), "PNG")[:2000])
    put("text.png", b"hello")
    put("bomb.png", saved(Image.new("1", (20_000, 10_000)), "PNG"))
    put("one.png", saved(Image.new("RGB", (1, 1)), "PNG"))
    put("huge.png", PNG + bytes(1_000_000))
    put("photo.heic", b"\x00\x00\x00\x18ftypheic")
    os.mkdir(folder / "folder.png")
    os.symlink("gone.png", folder / "dangling.png")
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("..", folder / "folder.png" / "up")
    os.mkfifo(folder / "pipe.png")
    os.symlink("/dev/zero", folder / "device.png")
    bad = {
        "zero.png": "empty",
        "truncated.png": "can't be decoded",
        "text.png": "not an image",
        "bomb.png": "exhaust memory",
        "one.png": "1 × 1",
        "huge.png": "more than the 500,000 allowed",
        "photo.heic": "not an image in a supported format",
        "folder.png": "folder",
        "dangling.png": "link to gone.png, which doesn't exist",
        "loop.png": "leads back to itself",
        "pipe.png": "named pipe",
        "device.png": "device",
    }
    plan = Plan.from_json(make_plan(str(folder), images_per_partition=5).to_json())
    found: dict[str, str] = {}
    for item in read(str(folder), plan, max_bytes=500_000):
        assert (item.data is None) == (item.error is not None)
        try:
            assert item.error or decode(item.data or b"", DecodePolicy((8, 8))).shape == (8, 8, 3)
            found[item.id] = item.error or ""
        except ImageError as error:
            found[item.id] = str(error)
    assert len(found) == plan.images
    assert {id for id, error in found.items() if not error} == good
    assert found.keys() - good == bad.keys()
    for id, words in bad.items():
        assert words in found[id]
        assert found[id].endswith(".")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to change to a user whom permissions bind")
def test_what_may_not_be_read_is_a_row_with_a_sentence() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Store(name)
        for path in ("a.png", "secret.png", "locked/x.png"):
            folder.write(path, PNG)
        os.chmod(name, 0o755)
        os.chmod(f"{name}/secret.png", 0)
        os.chmod(f"{name}/locked", 0)
        os.seteuid(65534)
        try:
            items = read(name, make_plan(name))
        finally:
            os.seteuid(0)
    assert [item.id for item in items] == ["a.png", "locked", "secret.png"]
    assert errors(items) == {
        "locked": "This folder can't be listed (Permission denied).",
        "secret.png": "It can't be read: permission is denied.",
    }


def test_a_file_that_vanishes_after_planning_is_a_row_with_a_sentence(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    for name in ("a.png", "b.png", "c.png"):
        Store(uri, options).write(name, PNG)
    plan = make_plan(uri, storage_options=options)
    Store(uri, options).remove("b.png")
    items = read(uri, plan, storage_options=options)
    assert [item.id for item in items] == ["a.png", "b.png", "c.png"]
    assert errors(items) == {"b.png": "There is no such file."}


def test_links_to_folders_are_followed_once_and_real_paths_come_first(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    folder.write("in/real/a.png", PNG)
    folder.write("outside/b.png", PNG)
    os.symlink("real", tmp_path / "in" / "again")
    os.symlink("../outside", tmp_path / "in" / "far")
    os.symlink("../in", tmp_path / "outside" / "back")
    assert_good(read(str(tmp_path / "in"), make_plan(str(tmp_path / "in"))), ["far/b.png", "real/a.png"])


def test_a_tree_deeper_than_any_path_is_a_row_and_not_a_crash(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    Store(str(tmp_path)).write("a.png", PNG)
    items = read(str(tmp_path), make_plan(str(tmp_path)))
    assert items[0].error is None
    assert "File name too long" in (items[1].error or "")
    assert len(items) == 2


def test_names_that_escape_to_the_same_id_are_told_apart(tmp_path: Path) -> None:
    for name in (b"\xe9.png", b"\\xe9.png", b"a.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(PNG)
    plan = Plan.from_json(make_plan(str(tmp_path), images_per_partition=2).to_json())
    assert_good(read(str(tmp_path), plan), ["\\xe9.png", "a.png", "\\xe9.png#2"])


@pytest.mark.parametrize(
    ("names", "tail", "words"),
    [
        ([], "", "no images"),
        (["notes.txt", ".a.png"], "", "no images"),
        (["a.png"], "missing", "doesn't exist"),
        (["a.png"], "*.jpg", "no images"),
        (["a.txt"], "a.txt", "no images"),
        (["a.png", "b.parquet"], "", "several kinds of input (files, parquet)"),
    ],
)
def test_nothing_to_translate_is_a_configuration_error_that_names_the_place(
    tmp_path: Path, names: list[str], tail: str, words: str
) -> None:
    for name in names:
        Store(str(tmp_path)).write(name, PNG)
    uri = os.path.join(tmp_path, tail)
    with pytest.raises(ConfigError) as caught:
        make_plan(uri)
    assert str(caught.value).startswith(uri)
    assert words in str(caught.value)


@pytest.mark.parametrize("uri", ["memory://nowhere", "memory://nowhere/*.png", "/no/such/folder", "~/no such folder"])
def test_a_place_that_does_not_exist_is_a_configuration_error(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"(nowhere|no such|no/such)"):
        make_plan(uri)


def test_a_bucket_that_does_not_exist_is_a_configuration_error(s3: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="s3://no-such-bucket/photos doesn't exist"):
        make_plan("s3://no-such-bucket/photos", storage_options=s3)


def test_wrong_storage_options_are_a_configuration_error(s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0)
    with pytest.raises(ConfigError, match=r"s3://bucket/x can't be read: .*nonsense"):
        make_plan("s3://bucket/x", storage_options={**s3, "nonsense": 1})


def test_one_picture_repeated_is_a_collection_however_small_its_file(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([PNG] * 20_000)})
    Store(str(tmp_path)).write("t.parquet", parquet(table))
    assert make_plan(str(tmp_path)).images == 20_000


@pytest.mark.parametrize("wrong", [{"images_per_partition": 0}, {"max_images": 0}])
def test_impossible_numbers_are_configuration_errors(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_plan(str(tmp_path), **wrong)


# -- the plan


def test_the_same_content_gives_the_same_plan_and_a_change_another_id(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    folder = Store(uri, options)
    for i in range(4):
        folder.write(f"{i}.png", PNG)
    plan = make_plan(uri, storage_options=options, images_per_partition=2)
    assert make_plan(uri, storage_options=options, images_per_partition=2) == plan
    folder.write("3.png", PNG[:-1] + b"!")
    changed = make_plan(uri, storage_options=options, images_per_partition=2)
    assert changed.partitions[0] == plan.partitions[0]
    assert changed.partitions[1].id != plan.partitions[1].id


def test_a_plan_survives_json_and_tampering_is_seen(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("a.parquet", parquet(rows(["x", "x", "y"])))
    plan = make_plan(str(tmp_path))
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text.encode()) == plan
    for broken in (text.replace("a.parquet", "b.parquet"), text[:-9], "[]", '{"version": 99}', b"\xff"):
        with pytest.raises(ConfigError):
            Plan.from_json(broken)


def test_every_part_of_a_source_counts_for_the_id() -> None:
    base = Source("a.parquet", "1-x", None, 0, 0, 5, 0)
    others = [
        Source("b.parquet", "1-x", None, 0, 0, 5, 0),
        Source("a.parquet", "2-x", None, 0, 0, 5, 0),
        Source("a.parquet", "1-x", "broken", 0, 0, 5, 0),
        Source("a.parquet", "1-x", None, 1, 0, 5, 0),
        Source("a.parquet", "1-x", None, 0, 1, 5, 0),
        Source("a.parquet", "1-x", None, 0, 0, 4, 0),
        Source("a.parquet", "1-x", None, 0, 0, 5, 1),
    ]
    ids = {Partition.of("parquet", [source]).id for source in [base, *others]}
    ids |= {Partition.of("arrow", [base]).id, Partition.of("parquet", [base], [(0, "x#2")]).id}
    assert len(ids) == 10
    assert all(len(id) == 16 and int(id, 16) >= 0 for id in ids)


def test_max_images_takes_the_first_rows(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    for i in range(5):
        folder.write(f"f/{i}.png", PNG)
        folder.write(f"t/{i}.parquet", parquet(rows([f"{i}-{j}" for j in range(4)]), row_group=3))
    plan = make_plan(f"{tmp_path}/f", max_images=2)
    assert [item.id for item in read(f"{tmp_path}/f", plan)] == ["0.png", "1.png"]
    plan = make_plan(f"{tmp_path}/t", max_images=6)
    assert [item.id for item in read(f"{tmp_path}/t", plan)] == ["0-0", "0-1", "0-2", "0-3", "1-0", "1-1"]


# -- tables

FORMS = {
    "parquet": lambda table: ("t.parquet", parquet(table, row_group=10)),
    "arrow file": lambda table: ("t.arrow", arrow(table, batch=10)),
    "arrow stream": lambda table: ("t.arrow", arrow(table, batch=10, stream=True)),
    "feather": lambda table: ("t.feather", arrow(table, batch=10, compression="lz4")),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_partition", [1, 10, 23])
def test_every_row_of_a_table_comes_out_once_in_order(
    place: tuple[str, dict[str, Any] | None], form: str, per_partition: int
) -> None:
    uri, options = place
    table = rows([f"id {i}" for i in range(47)])
    Store(uri, options).write(*FORMS[form](table))
    plan = make_plan(uri, storage_options=options, images_per_partition=per_partition)
    items = read(uri, plan, storage_options=options)
    assert [(item.id, item.data, item.caption, item.error) for item in items] == [
        (f"id {i}", PNG + bytes(i), f"caption {i}", None) for i in range(47)
    ]
    assert plan.images == 47
    assert max(part.rows for part in plan.partitions) <= max(per_partition, 10)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["parquet", "arrow", "stream"]),
    st.integers(0, 40),
)
def test_any_sizes_of_files_groups_and_partitions_lose_and_repeat_nothing(
    sizes: list[int], group: int, per_partition: int, form: str, limit: int
) -> None:
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        for file, size in enumerate(sizes):
            table = rows([str(next(numbers)) for _ in range(size)])
            table = table.cast(pa.schema([("id", pa.string()), ("image", IMAGE), ("caption", pa.string())]))
            data = parquet(table, group) if form == "parquet" else arrow(table, group, form == "stream")
            Store(name).write(f"{file}.{'parquet' if form == 'parquet' else 'arrow'}", data)
        expected = [str(i) for i in range(sum(sizes))][: limit or None]
        if not expected:
            with pytest.raises(ConfigError, match="holds no rows"):
                make_plan(name)
            return
        plan = make_plan(name, images_per_partition=per_partition, max_images=limit or None)
        assert [item.id for item in read(name, plan)] == expected
        assert len({part.id for part in plan.partitions}) == len(plan.partitions)


def test_a_large_row_group_is_shared_out_and_small_ones_are_packed(tmp_path: Path) -> None:
    folder = Store(str(tmp_path))
    folder.write("large.parquet", parquet(rows([str(i) for i in range(100)])))
    for i in range(6):
        folder.write(f"small{i}.parquet", parquet(rows([f"{i}-{j}" for j in range(4)])))
    plan = make_plan(str(tmp_path), images_per_partition=10)
    assert [part.rows for part in plan.partitions] == [10] * 10 + [8] * 3


def test_a_spark_folder_named_like_a_file_is_walked(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("out.parquet/part-0.parquet", parquet(rows(["a"])))
    Store(str(tmp_path)).write("out.parquet/_SUCCESS", b"")
    uri = f"{tmp_path}/out.parquet"
    assert_good(read(uri, make_plan(uri)), ["a"])


@pytest.mark.parametrize(
    "kind",
    [IMAGE, pa.struct([("bytes", pa.large_binary())]), pa.binary(), pa.large_binary(), pa.binary_view()],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
def test_images_are_read_from_columns_of_every_accepted_type(tmp_path: Path, kind: pa.DataType, form: str) -> None:
    table = rows(["a", "b"])
    pictures = table["image"].to_pylist()
    if not pa.types.is_struct(kind):
        pictures = [p["bytes"] for p in pictures]
    elif kind != IMAGE:
        pictures = [{"bytes": p["bytes"]} for p in pictures]
    table = table.set_column(1, "image", pa.array(pictures, kind))
    Store(str(tmp_path)).write(*FORMS[form](table))
    assert [item.data for item in read(str(tmp_path), make_plan(str(tmp_path)))] == [PNG, PNG + b"\0"]


IDS: list[tuple[pa.Array, list[str]]] = [
    (pa.array([7, 8], pa.int32()), ["7", "8"]),
    (pa.array([7, 2**64 - 1], pa.uint64()), ["7", "18446744073709551615"]),
    (pa.array(["7", "8"], pa.large_string()), ["7", "8"]),
    (pa.array(["7", "8"], pa.string_view()), ["7", "8"]),
    (pa.array(["7", "8"]).dictionary_encode(), ["7", "8"]),
    (pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
    (pa.array([b"7", b"\xff"]), ["7", "\\xff"]),
    (pa.array([b"7", b"8"], pa.binary(1)), ["7", "8"]),
    (pa.array([b"7", b"8"], pa.binary_view()), ["7", "8"]),
    (pa.array([7.0, 8.5]), ["7", "8.5"]),
    (pa.array([7.0, None], pa.float32()), ["7", "FILE#1"]),
    (pa.array([7.0, float("nan")]), ["7", "FILE#1"]),
    (pa.array([Decimal("7.10"), None]), ["7.10", "FILE#1"]),
    (pa.array([date(2026, 1, 2), None]), ["2026-01-02", "FILE#1"]),
    (pa.array([True, None]), ["True", "FILE#1"]),
    (pa.nulls(2), ["FILE#0", "FILE#1"]),
]


@pytest.mark.parametrize(("ids", "expected"), IDS, ids=lambda value: str(getattr(value, "type", ""))[:12])
@pytest.mark.parametrize("form", FORMS)
def test_ids_of_every_type_that_can_be_read_are(tmp_path: Path, ids: pa.Array, expected: list[str], form: str) -> None:
    name, data = FORMS[form](pa.table({"key": ids, "image": [PNG, PNG]}))
    Store(str(tmp_path)).write(name, data)
    columns = Columns(id="key")
    items = read(str(tmp_path), make_plan(str(tmp_path), columns), columns)
    assert [item.id for item in items] == [id.replace("FILE", name) for id in expected]


CAPTIONS: list[tuple[pa.Array, list[str | None]]] = [
    (pa.array(["one", None]).dictionary_encode(), ["one", None]),
    (pa.array(["one", ""], pa.large_string()), ["one", None]),
    (pa.array([b"one", b"\xe9"]), ["one", "\\xe9"]),
    (pa.array([["one"], []]), ["one", None]),
    (pa.array([[None, "", "one", "two"], None]), ["one", None]),
    (pa.array([["one"], ["two"]], pa.large_list(pa.large_string())), ["one", "two"]),
    (pa.array([["one"], None], pa.list_(pa.string(), 1)), ["one", None]),
    (pa.array([[b"one"], [b"\xe9"]]), ["one", "\\xe9"]),
    (pa.nulls(2), [None, None]),
]


@pytest.mark.parametrize(("captions", "expected"), CAPTIONS, ids=lambda value: str(getattr(value, "type", ""))[:20])
@pytest.mark.parametrize("form", FORMS)
def test_captions_of_every_type_that_can_be_read_are(
    tmp_path: Path, captions: pa.Array, expected: list[str | None], form: str
) -> None:
    table = pa.table({"id": ["a", "b"], "image": [PNG, PNG], "text": captions})
    Store(str(tmp_path)).write(*FORMS[form](table))
    columns = Columns(caption="text")
    items = read(str(tmp_path), make_plan(str(tmp_path), columns), columns)
    assert [item.caption for item in items] == expected


def test_what_is_not_read_is_not_looked_at(tmp_path: Path) -> None:
    """Of columns under the default names too, where the configuration says that none is read."""
    table = pa.table({"image": [PNG], "caption": [{"en": "a cat"}], "mask": [5], "scores": [[[1.0]]]})
    Store(str(tmp_path)).write("a.parquet", parquet(table))
    uri, columns = str(tmp_path), Columns(caption=None)
    assert [item.caption for item in read(uri, make_plan(uri, columns), columns)] == [None]
    with pytest.raises(ConfigError, match="caption column 'caption' has type struct"):
        make_plan(str(tmp_path))


def test_a_shard_without_anything_in_a_column_is_no_reason_to_refuse_the_others(tmp_path: Path) -> None:
    columns = Columns(mask="mask")
    full = pa.table({"id": ["a"], "image": [PNG], "caption": ["one"], "mask": [PNG]})
    Store(str(tmp_path)).write("a.parquet", parquet(full))
    for name in full.schema.names:
        own = full.set_column(0, "id", pa.array([name]))
        empty = own.set_column(full.schema.get_field_index(name), name, pa.nulls(1))
        Store(str(tmp_path)).write(f"no-{name}.parquet", parquet(empty))
    items = read(str(tmp_path), make_plan(str(tmp_path), columns), columns)
    assert [(item.data, item.caption, item.mask) for item in items] == [
        (PNG, "one", PNG),
        (PNG, None, PNG),
        (PNG, "one", PNG),
        (None, "one", None),
        (PNG, "one", None),
    ]


@pytest.mark.parametrize("coded", ["bytes", "struct", "paths", "members"])
def test_dictionary_coded_pictures_are_read(tmp_path: Path, coded: str) -> None:
    Store(str(tmp_path)).write("x.png", PNG)
    pictures = {
        "bytes": pa.array([PNG, PNG]).dictionary_encode(),
        "struct": pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array([{"bytes": PNG, "path": "x"}], IMAGE)),
        "paths": pa.array(["x.png", "x.png"]).dictionary_encode(),
        "members": pa.StructArray.from_arrays([pa.array([PNG, PNG]).dictionary_encode()], names=["bytes"]),
    }[coded]
    Store(str(tmp_path)).write("a.arrow", arrow(pa.table({"id": ["a", "b"], "image": pictures})))
    uri = f"{tmp_path}/*.arrow"
    assert [(item.id, item.data) for item in read(uri, make_plan(uri))] == [("a", PNG), ("b", PNG)]


@pytest.mark.parametrize("form", ["struct", "paths", "uri", "null bytes"])
def test_masks_by_path_are_read_as_images_are(tmp_path: Path, form: str) -> None:
    Store(str(tmp_path)).write("masks/m.png", PNG + b"m")
    masks = {
        "struct": [{"bytes": None, "path": "masks/m.png"}, {"bytes": None, "path": "masks/none.png"}, None],
        "null bytes": [
            {"bytes": None, "path": "masks/m.png"},
            {"bytes": b"", "path": "x"},
            {"bytes": None, "path": ""},
        ],
        "paths": ["masks/m.png", "masks/none.png", None],
        "uri": [f"file://{tmp_path}/masks/m.png", "http://localhost/m.png", None],
    }[form]
    kind = IMAGE if isinstance(masks[0], dict) else pa.string()
    table = pa.table({"id": ["a", "b", "c"], "image": [PNG] * 3, "m": pa.array(masks, kind)})
    Store(str(tmp_path)).write("t.parquet", parquet(table))
    uri, columns = f"{tmp_path}/*.parquet", Columns(mask="m")
    first, second, third = read(uri, make_plan(uri, columns), columns)
    assert (first.data, first.mask, first.error) == (PNG, PNG + b"m", None)
    assert (second.data, second.mask) == (None, None)
    assert "Its mask" in str(second.error)
    assert (third.data, third.mask, third.error) == (PNG, None, None)  # whether it needs one, the translator knows


def test_pictures_named_by_path_are_found_beside_the_table(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    folder = Store(uri, options)
    folder.write("images/a.png", PNG)
    folder.write("tables/b.png", PNG)
    names = ["../images/a.png", "b.png", "gone.png", f"{uri}/images/a.png" if "://" in uri else "./b.png", None, ""]
    table = pa.table({"id": list("abcdef"), "image": pa.array(names, pa.string())})
    folder.write("tables/t.parquet", parquet(table))
    where = f"{uri}/tables/*.parquet"
    items = read(where, make_plan(where, storage_options=options), storage_options=options, follow=[uri])
    assert [item.data for item in items] == [PNG, PNG, None, PNG, None, None]
    assert errors(items) == {
        "c": "Its image 'gone.png' can't be used: There is no such file.",
        "e": "Its image is null.",
        "f": "Its image is null.",
    }


def test_a_row_cannot_make_this_machine_fetch_from_its_own_files_or_network() -> None:
    names = [
        "file:///etc/hostname",
        "/etc/hostname",
        "http://127.0.0.1:1/x.png",
        "ftp://x/y",
        "simplecache::s3://x/y",
        "../../../x",
    ]
    table = pa.table({"image": pa.array(names, pa.string())})
    Store("memory://stranger").write("t.parquet", parquet(table))
    items = read("memory://stranger", make_plan("memory://stranger"))
    assert len(errors(items)) == len(names)


@pytest.mark.parametrize(
    "named",
    ["../secret/a.png", "{root}/secret/a.png", "file://{root}/secret/a.png", "file://{root}/in/../secret/a.png"],
)
def test_a_row_names_nothing_outside_its_collection_unless_it_is_allowed_to(tmp_path: Path, named: str) -> None:
    folder = Store(str(tmp_path))
    folder.write("secret/a.png", PNG)
    folder.write("in-other/a.png", PNG)
    rows = pa.array([named.format(root=tmp_path), "../in-other/a.png", "x/../b.png"], pa.string())
    folder.write("in/t.parquet", parquet(pa.table({"id": list("abc"), "image": rows})))
    folder.write("in/b.png", PNG)
    where = str(tmp_path / "in")
    plan = make_plan(f"{where}/*.parquet")
    items = read(f"{where}/*.parquet", plan)
    assert [item.data for item in items] == [None, None, PNG]
    assert "lies outside the collection" in errors(items)["a"]
    assert "input.follow" in errors(items)["b"]
    allowed = read(f"{where}/*.parquet", plan, follow=[str(tmp_path / "secret")])
    assert [item.data for item in allowed] == [PNG, None, PNG]


def test_a_row_reaches_no_other_bucket_of_its_storage(s3: dict[str, Any]) -> None:
    for start, options in (("memory://mine", None), ("s3://bucket", s3)):
        if options is not None:
            Store("s3://other", options).fs.makedirs("other", exist_ok=True)
        other = start.partition("://")[0] + "://other"
        Store(other, options).write("x/a.png", PNG)
        Store(start, options).write("near/a.png", PNG)
        names = ["../../other/x/a.png", f"{other}/x/a.png", "../near/a.png"]
        table = pa.table({"id": list("abc"), "image": pa.array(names, pa.string())})
        Store(start, options).write("coll/t.parquet", parquet(table))
        uri = f"{start}/coll"
        items = read(uri, make_plan(uri, storage_options=options), storage_options=options)
        assert [item.data for item in items] == [None, None, PNG]
        assert all("lies outside the collection" in sentence for sentence in errors(items).values())


def test_bad_rows_of_a_table_leave_their_neighbours_alone(tmp_path: Path) -> None:
    images = [
        {"bytes": PNG, "path": None},
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": PNG + bytes(5000), "path": None},
        {"bytes": PNG, "path": "ignored.png"},
    ]
    captions = pa.array([b"good", b"x", b"x", b"x", b"x", b"caf\xe9"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"id": list("abcdef"), "image": pa.array(images, IMAGE), "caption": captions})
    for form, write in FORMS.items():
        folder = tmp_path / form
        Store(str(folder)).write(*write(table))
        items = read(str(folder), make_plan(str(folder)), max_bytes=4000)
        assert [item.error for item in items] == [
            None,
            "Its image is null.",
            "Its image is null.",
            "Its image is empty (0 bytes).",
            f"It has {len(PNG) + 5000:,} bytes, more than the 4,000 allowed.",
            None,
        ]
        assert [items[0].caption, items[5].caption] == ["good", "caf\\xe9"]


# -- ids


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_partition", [2, 100])
def test_repeated_ids_become_error_rows_with_ids_of_their_own(tmp_path: Path, form: str, per_partition: int) -> None:
    ids = ["cat", "dog", "cat", "cat#2", "cat", "dog", *[f"x{i}" for i in range(10)], "cat", "x3"]
    Store(str(tmp_path)).write(*FORMS[form](rows(ids)))
    plan = Plan.from_json(make_plan(str(tmp_path), images_per_partition=per_partition).to_json())
    items = read(str(tmp_path), plan)
    found = ["cat", "dog", "cat#3", "cat#2", "cat#4", "dog#2", *[f"x{i}" for i in range(10)], "cat#5", "x3#2"]
    assert [item.id for item in items] == found
    assert sorted(errors(items)) == ["cat#3", "cat#4", "cat#5", "dog#2", "x3#2"]
    assert errors(items)["dog#2"] == "Its id 'dog' belongs to an earlier row: give each row an id of its own."


def test_repeats_are_found_across_files_and_kinds_of_id(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("a.parquet", parquet(rows(["1", "2"])))
    Store(str(tmp_path)).write("b.parquet", parquet(rows([2, 3])))
    items = read(str(tmp_path), make_plan(str(tmp_path)))
    assert [(item.id, item.error is None) for item in items] == [("1", True), ("2", True), ("2#2", False), ("3", True)]


def test_rows_without_an_id_are_named_by_file_and_row(tmp_path: Path) -> None:
    ids = ["", None, "in/t.parquet#1", "x"]
    Store(str(tmp_path)).write("in/t.parquet", parquet(rows(ids), row_group=2))
    items = read(str(tmp_path), make_plan(str(tmp_path)))
    assert [item.id for item in items] == ["in/t.parquet#0", "in/t.parquet#1", "in/t.parquet#1#2", "x"]
    assert list(errors(items)) == ["in/t.parquet#1#2"]
    Store(str(tmp_path)).write("none/t.parquet", parquet(rows(ids).drop(["id"]), row_group=2))
    items = read(f"{tmp_path}/none", make_plan(f"{tmp_path}/none", images_per_partition=2))
    assert [item.id for item in items] == [f"t.parquet#{i}" for i in range(4)]
    assert errors(items) == {}


def test_ids_with_equal_hashes_are_not_taken_for_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pz_ray.collection.table_plan._hash", lambda id: len(id))
    Store(str(tmp_path)).write("t.parquet", parquet(rows(["ab", "cd", "x", "ab"])))
    items = read(str(tmp_path), make_plan(str(tmp_path)))
    assert [item.error is None for item in items] == [True, True, True, False]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "b", "", None, "t.parquet#0", "t.parquet#3"]), min_size=1))
def test_ids_are_unique_whatever_the_column_holds(ids: list[str | None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        Store(name).write("t.parquet", parquet(rows(ids).set_column(0, "id", pa.array(ids, pa.string()))))
        items = read(name, make_plan(name, images_per_partition=3))
        assert len({item.id for item in items}) == len(items) == len(ids)
        named = [id for id in ids if id]
        good = {item.id for item in items if not item.error}
        assert set(named) <= good
        # Only a repeat is an error; a row without an id is one only where its made id is taken.
        assert len(named) - len(set(named)) <= len(errors(items))
        assert len(errors(items)) <= len(named) - len(set(named)) + 2


# -- damaged tables


def damaged(data: bytes, column: int, group: int, keep: float = 0.0) -> bytes:
    """A Parquet file with one column of one row group overwritten, but for its first part."""
    meta = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(group).column(column)
    offset = meta.dictionary_page_offset or meta.data_page_offset
    start = offset + int(meta.total_compressed_size * keep)
    end = offset + meta.total_compressed_size
    return data[:start] + b"\xff" * (end - start) + data[end:]


def test_a_corrupt_row_group_costs_its_own_rows_alone(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    data = parquet(rows([f"r{i}" for i in range(60)]), row_group=20)
    Store(uri, options).write("t.parquet", damaged(data, column=1, group=1))
    items = read(uri, make_plan(uri, storage_options=options, images_per_partition=10), storage_options=options)
    assert [item.id for item in items] == [f"r{i}" for i in range(60)]
    assert list(errors(items)) == [f"r{i}" for i in range(20, 40)]
    assert all("t.parquet is broken there" in error for error in errors(items).values())


def test_rows_whose_ids_are_corrupt_are_named_by_file_and_row(tmp_path: Path) -> None:
    data = parquet(rows([f"r{i}" for i in range(9)]), row_group=3)
    Store(str(tmp_path)).write("t.parquet", damaged(data, column=0, group=1))
    items = read(str(tmp_path), make_plan(str(tmp_path), images_per_partition=2))
    assert [item.id for item in items] == [
        *("r0", "r1", "r2"),
        *(f"t.parquet#{i}" for i in (3, 4, 5)),
        "r6",
        "r7",
        "r8",
    ]
    assert list(errors(items)) == [f"t.parquet#{i}" for i in (3, 4, 5)]


def test_rows_before_the_damage_are_kept(tmp_path: Path) -> None:
    table = rows([f"r{i}" for i in range(4 * BATCH_ROWS)], data=PNG + bytes(3000))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=False, data_page_size=8000)
    Store(str(tmp_path)).write("t.parquet", damaged(buffer.getvalue(), column=1, group=0, keep=0.6))
    items = read(str(tmp_path), make_plan(str(tmp_path), images_per_partition=1000))
    failed = [item.error is not None for item in items]
    assert [item.id for item in items] == table["id"].to_pylist()
    assert failed == sorted(failed)
    assert BATCH_ROWS <= failed.index(True) < 4 * BATCH_ROWS


@pytest.mark.parametrize("form", FORMS)
def test_a_table_that_is_none_is_a_configuration_error_naming_it(tmp_path: Path, form: str) -> None:
    name, data = FORMS[form](rows([f"{i}" for i in range(30)]))
    for broken in (
        b"",
        b"text",
        data[:7],
        data[: len(data) * 2 // 3],
        bytes(500),
        b"ARROW1\0\0" + bytes(90),
        b"PAR1PAR1",
    ):
        Store(str(tmp_path)).write(name, broken)
        with pytest.raises(ConfigError) as caught:
            make_plan(str(tmp_path))
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["arrow file", "arrow stream", "feather"])
def test_a_table_with_a_columns_name_that_is_no_text_is_refused_by_name(tmp_path: Path, form: str) -> None:
    table = rows([f"{i}" for i in range(3)])
    name, data = FORMS[form](table.append_column("comment", table["caption"]))
    Store(str(tmp_path)).write(name, data.replace(b"comment", b"com\xa7ent"))
    with pytest.raises(ConfigError, match=rf"{name} isn't a readable table"):
        make_plan(str(tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_damage_anywhere_in_a_table_gives_every_planned_row_or_a_sentence(tmp_path: Path, form: str) -> None:
    name, data = FORMS[form](rows([f"{i}" for i in range(12)]))
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            broken[place] ^= int(rng.integers(1, 256))
        Store(str(tmp_path)).write(name, bytes(broken))
        try:
            plan = make_plan(str(tmp_path), images_per_partition=5)
        except ConfigError:
            outcomes.add("refused")
            continue
        items = read(str(tmp_path), plan)
        assert len(items) == plan.images
        assert len({item.id for item in items}) == len(items)
        outcomes.add("read")
    assert outcomes == {"refused", "read"}


def test_a_table_changed_after_planning_is_refused_by_name(place: tuple[str, dict[str, Any] | None]) -> None:
    uri, options = place
    Store(uri, options).write("t.parquet", parquet(rows(["a", "b"])))
    plan = make_plan(uri, storage_options=options)
    Store(uri, options).write("t.parquet", parquet(rows(["a", "c"])))
    with pytest.raises(P2PZError, match=r"t\.parquet changed since the plan was made"):
        read(uri, plan, storage_options=options)
    Store(uri, options).remove("t.parquet")
    Store(uri, options).write("other.parquet", b"")
    with pytest.raises(P2PZError, match=r"t\.parquet: There is no such file"):
        read(uri, plan, storage_options=options)


@pytest.mark.faults
@pytest.mark.parametrize("form", FORMS)
def test_an_outage_raises_and_makes_no_error_rows(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0)
    uri = f"memory://outage-{form}".replace(" ", "-")
    folder = Store(uri)
    folder.write(*FORMS[form](rows(["a", "b"], data=PNG + np.random.default_rng(0).bytes(200_000))))
    plan = make_plan(uri)
    original = type(folder.fs).cat_file

    def down(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if end is not None and end - (start or 0) > 100_000:
            raise ConnectionError("the line went dead")
        return original(self, path, start, end, **options)

    monkeypatch.setattr(type(folder.fs), "cat_file", down)
    with pytest.raises(StorageError, match="the line went dead"):
        read(uri, plan)


@pytest.mark.faults
def test_an_outage_in_a_folder_raises_and_makes_no_error_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0)
    folder = Store("memory://outage-folder")
    folder.write("a.png", PNG)
    plan = make_plan("memory://outage-folder")

    def down(*_: Any, **__: Any) -> bytes:
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(type(folder.fs), "cat_file", down)
    with pytest.raises(StorageError, match="the line went dead"):
        read("memory://outage-folder", plan)


def test_what_datasets_saves_is_a_collection(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    saved = datasets.Dataset.from_dict(
        {"image": [{"bytes": PNG, "path": None}] * 5, "caption": ["c"] * 5}, features=features
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    uri = str(tmp_path / "saved")
    items = read(uri, make_plan(uri, images_per_partition=2))
    assert_good(items, [f"data-00000-of-00001.arrow#{i}" for i in range(5)])
    assert items[0].caption == "c"


def test_what_this_project_writes_is_a_collection(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("t.parquet", table_bytes(rows([str(i) for i in range(250)])))
    plan = make_plan(str(tmp_path), images_per_partition=100)
    assert [part.rows for part in plan.partitions] == [100, 100, 50]
    assert_good(read(str(tmp_path), plan), [str(i) for i in range(250)])
