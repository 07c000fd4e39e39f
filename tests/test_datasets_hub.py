"""Collections on the Hugging Face hub, read from a hub on this machine by the hub's own client."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_hub import hub_server

from p2pz_ray.collection import Item, Store, encode, make_plan, read_partition
from p2pz_ray.errors import P2PZError
from p2pz_ray.storage.version import fingerprint

PNG = encode(np.full((16, 16, 3), 90, np.uint8))
URI = "hf://datasets/me/cats"


def table(*names: str, picture: bytes = PNG) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"id": list(names), "image": [picture] * len(names), "caption": ["a cat"] * len(names)}), sink
    )
    return sink.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes], dict[str, Any]]]:
    """The files of a data set, which a test may change, and the options that reach them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files: dict[str, bytes] = {"README.md": b"cats"}
    with hub_server(files) as address:
        yield files, {"endpoint": address, "token": False, "skip_instance_cache": True}


def read(uri: str, options: dict[str, Any]) -> list[Item]:
    plan = make_plan(uri, storage_options=options)
    return [item for part in plan.partitions for item in read_partition(uri, part, storage_options=options)]


@pytest.mark.parametrize("uri", [URI, f"{URI}/data", f"{URI}/**/*.parquet", f"{URI}/data/train-0.parquet"])
def test_a_data_sets_tables_are_a_collection(hub: tuple[dict[str, bytes], dict[str, Any]], uri: str) -> None:
    files, options = hub
    files["data/train-0.parquet"] = table("a", "b")
    assert [(i.id, i.data, i.caption, i.error) for i in read(uri, options)] == [
        ("a", PNG, "a cat", None),
        ("b", PNG, "a cat", None),
    ]


def test_a_data_sets_pictures_are_a_collection(hub: tuple[dict[str, bytes], dict[str, Any]]) -> None:
    files, options = hub
    files |= {"cats/1.png": PNG, "cats/two words.png": PNG + b"2", "dogs/1.png": PNG + b"3"}
    assert [(i.id, i.data) for i in read(URI, options)] == [
        ("cats/1.png", PNG),
        ("cats/two words.png", PNG + b"2"),
        ("dogs/1.png", PNG + b"3"),
    ]
    plan = make_plan(URI, storage_options=options)
    del files["cats/1.png"]
    first = next(read_partition(URI, plan.partitions[0], storage_options=options))
    assert first.data is None
    assert "no such file" in str(first.error)


def test_a_table_that_changed_since_the_plan_is_refused_though_its_size_is_the_same(
    hub: tuple[dict[str, bytes], dict[str, Any]],
) -> None:
    files, options = hub
    files["a.parquet"] = table("a", picture=PNG + b"1")
    plan = make_plan(URI, storage_options=options)
    changed = table("a", picture=PNG + b"2")
    assert len(changed) == len(files["a.parquet"])
    files["a.parquet"] = changed
    with pytest.raises(P2PZError, match="changed since the plan was made"):
        list(read_partition(URI, plan.partitions[0], storage_options=options))
    assert make_plan(URI, storage_options=options) != plan


@pytest.mark.parametrize("key", ["blob_id", "xet_hash", "ETag", "generation", "mtime"])
def test_each_storages_own_version_counts(key: str) -> None:
    one, other = ({"size": 5, key: value} for value in ("1", "2"))
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(dict(one))


def test_a_picture_that_a_row_names_on_the_hub_is_fetched(
    hub: tuple[dict[str, bytes], dict[str, Any]], tmp_path: Any
) -> None:
    files, options = hub
    files["pictures/a.png"] = PNG
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "image": [f"{URI}/pictures/a.png", "../pictures/a.png"]}), sink)
    files["tables/a.parquet"] = sink.getvalue()
    assert [item.data for item in read(f"{URI}/tables", options)] == [PNG, PNG]
    assert Store(URI, options).read("pictures/a.png") == PNG
