"""Collections in the forms in which this trade keeps pictures, as their own writers write them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from s3_server import s3_server

from p2pz_ray.collection import Columns, Item, Plan, Store, encode, make_plan, read_partition
from p2pz_ray.collection.understood import understood
from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.job import columns_of
from p2pz_ray.errors import ConfigError, P2PZError

PNG = encode(np.full((16, 16, 3), 90, np.uint8))


def read(
    uri: str,
    columns: Columns | None = None,
    options: dict[str, Any] | None = None,
    per: int = 64,
    most: int | None = None,
) -> tuple[list[Item], str]:
    """The items of a collection, and the line that says what was understood of it."""
    columns = columns or Columns()
    plan = Plan.from_json(make_plan(uri, columns, options, per, most).to_json())
    items = [item for part in plan.partitions for item in read_partition(uri, part, columns, options)]
    assert len(items) == plan.images
    assert len({item.id for item in items}) == len(items)
    line = str(understood(uri, plan, columns, options, counted=True))
    assert "\n" not in line
    return items, line.removeprefix(f"{uri}: ")


def rows(items: list[Item]) -> list[tuple[str, bytes | None, str | None]]:
    return [(item.id, item.data, item.caption) for item in items]


# -------------------------------------------------------------------------------------------- captions beside pictures


@pytest.mark.parametrize("remote", [False, True])
def test_captions_stand_beside_pictures_as_text_or_json(tmp_path: Path, remote: bool) -> None:
    uri = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    store = Store(uri)
    for name in ("a.png", "b.JPG", "c/d.png", "e.png", "f.png"):
        store.write(name, PNG)
    store.write("a.txt", b" a  cat\nasleep ")
    store.write("b.json", json.dumps({"caption": "a cat awake", "more": 1}).encode())
    store.write("c/d.txt", b"\xef\xbb\xbfcaf\xe9")
    store.write("e.json", b"{broken")
    store.write("notes.txt", b"not of any picture")
    items, line = read(uri, per=2)
    assert rows(items) == [
        ("a.png", PNG, "a cat asleep"),
        ("b.JPG", PNG, "a cat awake"),
        ("c/d.png", PNG, "caf\\xe9"),
        ("e.png", None, None),
        ("f.png", PNG, None),
    ]
    assert "'e.json' is not valid JSON" in str(items[3].error)
    left = "1 other name left out (hidden, of another kind or no data)"
    assert line.endswith(f"; captions of 4 images (1 without) from files beside them; {left}")
    assert [item.caption for item in read(uri, Columns(caption=None))[0]] == [None] * 5


def test_a_caption_that_changed_is_another_partition(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a.png", PNG)
    store.write("a.txt", b"a cat")
    before = make_plan(str(tmp_path))
    assert make_plan(str(tmp_path)) == before
    store.write("a.txt", b"two cats")
    assert make_plan(str(tmp_path)).partitions[0].id != before.partitions[0].id


@pytest.mark.parametrize("remote", [False, True])
def test_masks_stand_in_a_folder_of_their_own_by_name(tmp_path: Path, remote: bool) -> None:
    base = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    images, masks = Store(f"{base}/images"), Store(f"{base}/masks")
    for name in ("a.jpg", "deeper/b.png", "c.jpg", "d.jpg"):
        images.write(name, PNG)
    masks.write("a.png", PNG + b"a")
    masks.write("deeper/b.png", PNG + b"b")
    masks.write("c.jpg", PNG + b"c")
    items, line = read(f"{base}/images", Columns(masks=f"{base}/masks"))
    assert {item.id: item.mask for item in items} == {
        "a.jpg": PNG + b"a",
        "c.jpg": PNG + b"c",
        "d.jpg": None,
        "deeper/b.png": PNG + b"b",
    }
    assert line.endswith(f"; masks from {base}/masks")
    given = {"input": {"uri": "x", "masks": "m"}, "output": "o", "edits": {"e": {"source": "cat", "target": "dog"}}}
    assert columns_of(TranslateConfig.model_validate(given)).masks == "m"


# ------------------------------------------------------------------------------------------ Hugging Face's ImageFolder

METADATA: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "metadata.jsonl": lambda rows: "".join(f"{json.dumps(row)}\n" for row in rows).encode(),
    "metadata.csv": lambda rows: "\n".join(
        [",".join(rows[0]), *(",".join(f'"{value or ""}"' for value in row.values()) for row in rows)]
    ).encode(),
    "metadata.parquet": lambda rows: parquet(pa.Table.from_pylist(rows)),
}


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@pytest.mark.parametrize("name", [*METADATA])
@pytest.mark.parametrize("remote", [False, True])
def test_an_image_folder_is_read_by_its_metadata(tmp_path: Path, name: str, remote: bool) -> None:
    uri = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    store = Store(uri)
    described = [
        {"file_name": "001.png", "text": "a cat, asleep", "mask_file_name": "masks/001.png"},
        {"file_name": "deeper/2.png", "text": None, "mask_file_name": "masks/2.png"},
        {"file_name": "none.png", "text": "no picture", "mask_file_name": "masks/2.png"},
    ]
    for side in ("train", "test"):
        store.write(f"{side}/{name}", METADATA[name](described))
        for i, picture in enumerate(("001.png", "deeper/2.png", "not-named.png", "masks/001.png", "masks/2.png")):
            store.write(f"{side}/{picture}", PNG + bytes([i]))
    items, line = read(uri, Columns(mask="mask_file_name"))
    found = [(item.id, item.data, item.caption, item.mask) for item in items]
    assert found[:3] == [
        ("test/001.png", PNG + b"\0", "a cat, asleep", PNG + b"\3"),
        ("test/deeper/2.png", PNG + b"\1", None, PNG + b"\4"),
        ("test/none.png", None, "no picture", None),
    ]
    assert [id.replace("test", "train") for id, *_ in found[:3]] == [id for id, *_ in found[3:]]
    assert "no such file" in str(items[2].error)
    assert "captions of 4 images (2 without) from the column 'text'; masks from the column 'mask_file_name'" in line


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_what_hugging_face_reads_of_an_image_folder_is_what_is_read_here(tmp_path: Path, name: str) -> None:
    described = [{"file_name": f"{i}.png", "text": f"cat {i}"} for i in range(5)]
    for i in range(5):
        Store(f"{tmp_path}/in").write(f"{i}.png", encode(np.full((8, 8, 3), i, np.uint8)))
    Store(f"{tmp_path}/in").write(name, METADATA[name](described))
    theirs = datasets.load_dataset("imagefolder", data_dir=f"{tmp_path}/in", cache_dir=f"{tmp_path}/c", split="train")
    ours, _ = read(f"{tmp_path}/in")
    assert [item.caption for item in ours] == theirs["text"][:]
    assert [encode(np.asarray(image)) for image in theirs["image"]] == [item.data for item in ours]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png"}\n{broken'),
        ("metadata.csv", b"file_name,text\na.png\n"),
        ("metadata.jsonl", b""),
    ],
)
def test_metadata_that_can_not_be_read_is_one_sentence_naming_it(tmp_path: Path, name: str, content: bytes) -> None:
    Store(str(tmp_path)).write("a.png", PNG)
    Store(str(tmp_path)).write(name, content)
    with pytest.raises(ConfigError, match=rf"{name} isn't a readable table"):
        make_plan(str(tmp_path))


# ------------------------------------------------------------------------------------------------------ WebDataset


def samples(count: int, size: int = 0) -> list[dict[str, Any]]:
    return [
        {"__key__": f"{i:06}", "png": PNG + bytes(size) + i.to_bytes(2), "txt": f"cat {i}", "json": {"n": i}}
        for i in range(count)
    ]


def write_tars(folder: Path, given: list[dict[str, Any]], shards: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05}.tar")) as writer:
            for sample in given[shard::shards]:
                writer.write(sample)


def raw(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("per", [1, 3, 100])
@pytest.mark.parametrize("size", [0, 300_000])
@pytest.mark.parametrize("remote", [False, True])
def test_webdatasets_own_tars_are_read_sample_by_sample(tmp_path: Path, remote: bool, size: int, per: int) -> None:
    given = samples(11, size)
    write_tars(tmp_path / "in", given, 2)
    uri = str(tmp_path / "in")
    if remote:
        uri = f"memory://{tmp_path.name}/in"
        for file in (tmp_path / "in").iterdir():
            Store(uri).write(file.name, file.read_bytes())
    items, line = read(uri, per=per)
    expected = {f"{i % 2:05}.tar/{i:06}": (given[i]["png"], f"cat {i}") for i in range(11)}
    assert {item.id: (item.data, item.caption) for item in items} == expected
    assert line.startswith("11 images in 2 tars, ")
    assert len(read(uri, per=per, most=8)[0]) == 8


def test_members_are_named_by_the_configuration(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key in ("./x/1", "x/2"):
            for part, data in (
                ("source.png", b"s"),
                ("edited.png", b"e"),
                ("mask.png", b"m"),
                ("caption.txt", b" a\ncat "),
            ):
                raw(tar, f"{key}.{part}", data)
        raw(tar, "x/2.json", b'{"caption": "of json"}')
    [first, second], _ = read(f"{tmp_path}/a.tar", Columns(image="edited.png", mask="mask"))
    assert (first.id, first.data, first.mask, first.caption) == ("a.tar/x/1", b"e", b"m", "a cat")
    assert (second.id, second.caption) == ("a.tar/x/2", "a cat")
    [first, _], _ = read(f"{tmp_path}/a.tar", Columns(image="source", caption=None))
    assert (first.data, first.mask, first.caption) == (b"s", None, None)


def test_strange_members_are_no_samples_and_a_repeated_key_gets_an_id_of_its_own(tmp_path: Path) -> None:
    long = "folder/" * 30 + "k" * 90
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in (
            *(("k.png", b"1"), ("k.json", b"{"), ("l.png", b"2"), ("._l.png", b"mac"), ("no-dot", b"x")),
            *(("k.png", b"3"), ("k#2.png", b"4"), ("n.txt", b"no picture"), (f"{long}.png", b"5"), ("é.png", b"")),
        ):
            raw(tar, name, data)
    items, line = read(f"{tmp_path}/a.tar", per=2)
    assert [(item.id, item.data) for item in items] == [
        ("a.tar/k", None),
        ("a.tar/l", b"2"),
        ("a.tar/k#3", b"3"),
        ("a.tar/k#2", b"4"),
        (f"a.tar/{long}", b"5"),
        ("a.tar/é", None),
    ]
    assert items[0].error == "Its JSON can't be read."
    assert items[-1].error == "Its image is empty (0 bytes)."
    assert line.endswith("1 other name left out (hidden, of another kind or no data)")


@pytest.mark.parametrize("content", [b"<html>", b"\x1f\x8b\x08" + bytes(2000), "cut", b"\0" * 10])
def test_a_tar_that_is_none_or_is_cut_is_one_sentence_naming_it(tmp_path: Path, content: bytes | str) -> None:
    write_tars(tmp_path, samples(3), 1)
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[:3000] if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=r"00000\.tar isn't a readable tar"):
        make_plan(str(tmp_path))


def test_a_tar_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    write_tars(tmp_path, samples(3), 1)
    plan = make_plan(str(tmp_path))
    write_tars(tmp_path, samples(4), 1)
    with pytest.raises(P2PZError, match="changed since the plan was made"):
        list(read_partition(str(tmp_path), plan.partitions[0]))


def test_ten_tars_in_a_bucket_are_read_once_to_the_byte(tmp_path: Path) -> None:
    given = samples(1000)
    write_tars(tmp_path, given, 10)
    total = sum(file.stat().st_size for file in tmp_path.iterdir())
    with s3_server() as options:
        for file in tmp_path.iterdir():
            Store("s3://bucket/in", options).write(file.name, file.read_bytes())
        plan = make_plan("s3://bucket/in", storage_options=options)
        assert plan.images == 1000
        fs = Store("s3://bucket/in", options).fs
        count = {"bytes": 0}
        kept = fs.cat_file

        def counted(*arguments: Any, **more: Any) -> Any:
            found = kept(*arguments, **more)
            count["bytes"] += len(found)
            return found

        fs.cat_file = counted
        try:
            items = [
                item
                for part in plan.partitions
                for item in read_partition("s3://bucket/in", part, storage_options=options)
            ]
        finally:
            del fs.cat_file
    assert {item.data for item in items} == {sample["png"] for sample in given}
    assert len({item.id for item in items}) == 1000
    assert count["bytes"] <= total


# ------------------------------------------------------------------------------------------------------ img2dataset


def downloaded(folder: Path, form: str, name: str = "00000") -> None:
    """What img2dataset leaves of four addresses, of which two couldn't be downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    for i, error in enumerate([None, "HTTP Error 404: Not Found", None, "<urlopen error timed out>"]):
        status = "success" if error is None else "failed_to_download"
        key = f"{name}{i:04}"
        row = {"url": f"http://h/{i}", "caption": f"cat {i}", "key": key, "status": status, "error_message": error}
        table.append({**row, "width": 16, **({"jpg": None if error else PNG} if form == "parquet" else {})})
    (folder / f"{name}.parquet").write_bytes(parquet(pa.Table.from_pylist(table)))
    (folder / f"{name}_stats.json").write_text(json.dumps({"count": 4, "successes": 2}))
    good = [row for row in table if row["status"] == "success"]
    members = [
        (f"{row['key']}.{part}", data)
        for row in good
        for part, data in (
            ("jpg", PNG),
            ("txt", row["caption"].encode()),
            ("json", json.dumps(row, default=str).encode()),
        )
    ]
    if form == "webdataset":
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for member, data in members:
                raw(tar, member, data)
    elif form == "files":
        for member, data in members:
            Store(str(folder / name)).write(member, data)


@pytest.mark.parametrize("form", ["files", "webdataset", "parquet"])
def test_what_img2dataset_writes_is_a_collection_and_its_failures_are_error_rows(tmp_path: Path, form: str) -> None:
    for name in ("00000", "00001"):
        downloaded(tmp_path, form, name)
    items, line = read(str(tmp_path), per=3)
    good = [item for item in items if item.error is None]
    assert [(item.data, item.caption) for item in good] == [(PNG, "cat 0"), (PNG, "cat 2")] * 2
    bad = [item for item in items if item.error is not None]
    assert [item.caption for item in bad] == ["cat 1", "cat 3"] * 2
    assert bad[0].error == "img2dataset couldn't download it (HTTP Error 404: Not Found)."
    assert {item.id.rpartition("/")[2] for item in bad} == {"000000001", "000000003", "000010001", "000010003"}
    expected = {
        "files": "; captions of 4 images from files beside them; 4 of the images couldn't be downloaded",
        "webdataset": "; captions from members .txt or, in .json, 'caption'; 4 of the images couldn't be downloaded",
        "parquet": "; captions of 8 images from the column 'caption'",
    }
    assert line.endswith(expected[form])
