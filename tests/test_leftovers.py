"""Among tables, what other tools leave beside their data is left out, counted, and never a second row."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import s3_server

from p2pz_ray.collection import Columns, Store, encode, make_plan, read_partition
from p2pz_ray.errors import ConfigError

PNG = encode(np.full((16, 16, 3), 90, np.uint8))


def ids(uri: str, options: dict[str, Any] | None = None) -> list[str]:
    plan = make_plan(uri, storage_options=options)
    return [item.id for part in plan.partitions for item in read_partition(uri, part, storage_options=options)]


def table(*names: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": list(names), "image": [PNG] * len(names)}), sink)
    return sink.getvalue()


LEFT = [
    "_temporary/0/task_1/part-0.parquet",
    "_delta_log/00000000000000000010.checkpoint.parquet.tmp.parquet",
    "_metadata.parquet",
    "day=1/_started/part-0.parquet",
    "day=1/_committed_1.parquet",
    ".hoodie/part-0.parquet",
    "__MACOSX/part-0.parquet",
    "_spark_metadata/0.pq",
    "_tmp/x.arrow",
]


@pytest.mark.parametrize("path", LEFT)
@pytest.mark.parametrize("remote", [False, True])
def test_hidden_names_among_tables_are_left_out_and_counted(tmp_path: Path, path: str, remote: bool) -> None:
    uri = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    Store(uri).write("day=1/part-0.parquet", table("a"))
    Store(uri).write("_SUCCESS", b"")
    Store(uri).write(path, table("b"))
    assert ids(uri) == ["a"]
    assert make_plan(uri).skipped == 2


def test_pictures_may_be_called_anything_and_a_table_that_is_named_itself_is_meant(tmp_path: Path) -> None:
    Store(f"{tmp_path}/p").write("_DSC0001.JPG", PNG)
    Store(f"{tmp_path}/p").write("_raw/1.png", PNG)
    Store(f"{tmp_path}/p").write("_raw/1.parquet", table("a"))  # and no second kind of input
    assert ids(f"{tmp_path}/p") == ["_DSC0001.JPG", "_raw/1.png"]
    Store(str(tmp_path)).write("t/_one.parquet", table("a"))
    Store(str(tmp_path)).write("t/[1]/_one.parquet", table("b"))
    assert ids(f"{tmp_path}/t/_one.parquet") == ["a"]
    assert ids(f"{tmp_path}/t/[1]/_one.parquet") == ["b"]
    assert ids(f"{tmp_path}/p/_raw/*.parquet") == ["a"]


def saved(folder: Path, count: int = 4) -> Any:
    made = datasets.Dataset.from_dict(
        {"id": [f"i{i}" for i in range(count)], "image": [PNG] * count, "caption": ["a cat"] * count}
    ).cast_column("image", datasets.Image())
    made.save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


@pytest.mark.parametrize("what", ["map", "filter", "two maps", "sort"])
def test_what_datasets_keeps_beside_a_saved_data_set_is_no_data(tmp_path: Path, what: str) -> None:
    held = saved(tmp_path / "in")
    if what == "filter":
        held.filter(lambda row: row["id"] != "i1")
    elif what == "sort":
        held.sort("id", reverse=True)
    else:
        held.map(lambda row: {"caption": "a dog"}, keep_in_memory=False)
    if what == "two maps":
        held.map(lambda row: {"caption": "a cow"})
    assert len(list((tmp_path / "in").glob("*.arrow"))) >= 2
    assert ids(str(tmp_path / "in")) == ["i0", "i1", "i2", "i3"]
    assert make_plan(str(tmp_path / "in")).skipped >= 3  # beside it state.json and dataset_info.json


def test_a_saved_dictionary_of_splits_and_one_of_several_files_are_read_whole(tmp_path: Path) -> None:
    held = saved(tmp_path / "one")
    datasets.DatasetDict({"train": held, "test": held.select([3])}).save_to_disk(str(tmp_path / "both"))
    Store(f"{tmp_path}/both").write("train/cache-1.arrow", (tmp_path / "one/data-00000-of-00001.arrow").read_bytes())
    plan = make_plan(str(tmp_path / "both"))
    assert plan.images == 5
    held.save_to_disk(str(tmp_path / "many"), num_shards=2)
    assert ids(str(tmp_path / "many")) == ["i0", "i1", "i2", "i3"]


def test_a_saved_data_set_in_a_bucket_is_read_by_its_state(tmp_path: Path) -> None:
    saved(tmp_path / "in").map(lambda row: {"caption": "a dog"})
    with s3_server() as options:
        for file in (tmp_path / "in").iterdir():
            Store("s3://bucket/in", options).write(file.name, file.read_bytes())
        assert ids("s3://bucket/in", options) == ["i0", "i1", "i2", "i3"]


def test_what_the_cache_of_load_dataset_holds_is_read_without_its_maps(tmp_path: Path) -> None:
    saved(tmp_path / "in").map(lambda row: {"caption": "a dog"})
    (tmp_path / "in/state.json").unlink()
    [cached] = (tmp_path / "in").glob("cache-*.arrow")
    shutil.copy(cached, tmp_path / "in/cache-again.arrow")
    assert ids(str(tmp_path / "in")) == ["i0", "i1", "i2", "i3"]


@pytest.mark.parametrize(
    ("state", "said"),
    [("{", "is not valid JSON"), ('{"_indices_files": [{"filename": "x"}], "_data_files": []}', "flatten_indices")],
)
def test_a_state_that_can_not_be_followed_is_one_sentence(tmp_path: Path, state: str, said: str) -> None:
    saved(tmp_path / "in")
    (tmp_path / "in/state.json").write_text(state)
    with pytest.raises(ConfigError, match=said):
        make_plan(str(tmp_path / "in"))


def test_of_a_delta_table_the_files_that_its_log_counts_are_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for name in ("a", "b", "c d"):
        store.write(f"day=1/{name}.parquet", table(name))
    log = [
        [{"metaData": {}}, {"add": {"path": "day=1/a.parquet"}}, {"add": {"path": "day=1/b.parquet"}}],
        [{"remove": {"path": "day=1/a.parquet"}}, {"add": {"path": "day=1/c%20d.parquet"}}],
    ]
    for version, actions in enumerate(log):
        store.write(f"_delta_log/{version:020}.json", "\n".join(map(json.dumps, actions)).encode())
    assert ids(str(tmp_path)) == ["b", "c d"]
    assert ids(f"{tmp_path}/**/*.parquet") == ["b", "c d"]
    # A checkpoint says what counted by its version; what came before may be gone.
    sink = io.BytesIO()
    adds = [{"path": "day=1/a.parquet"}, {"path": "day=1/b.parquet"}, None]
    pq.write_table(pa.table({"add": pa.array(adds, pa.struct([("path", pa.string())]))}), sink)
    store.write(f"_delta_log/{0:020}.checkpoint.parquet", sink.getvalue())
    (tmp_path / f"_delta_log/{0:020}.json").unlink()
    assert ids(str(tmp_path)) == ["b", "c d"]


@pytest.mark.parametrize(
    "keys",
    [
        ["cats//a.png", "cats/a.png"],
        ["cats///a.png", "cats//a.png", "cats/x//a.png", "cats/x/a.png"],
        ["cats/a b.png", "cats/a%20b.png", "cats/a+b.png"],
        ["cats/é.png", "cats/e\u0301.png", "cats/\\xe9.png"],
    ],
)
def test_keys_of_a_bucket_are_read_as_they_are_and_ids_are_unique(keys: list[str]) -> None:
    with s3_server() as options:
        for i, key in enumerate(keys):
            Store("s3://bucket", options).fs.pipe_file(f"bucket/{key}", PNG + bytes([i]))
        plan = make_plan("s3://bucket/cats", storage_options=options)
        items = [i for p in plan.partitions for i in read_partition("s3://bucket/cats", p, storage_options=options)]
    assert {item.id: item.data for item in items} == {
        key.removeprefix("cats/"): PNG + bytes([i]) for i, key in enumerate(keys)
    }


def test_columns_are_not_asked_of_what_is_left_out(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("a.parquet", table("a"))
    Store(str(tmp_path)).write("_log/b.parquet", b"broken")
    assert make_plan(str(tmp_path), Columns(id="id")).images == 1
