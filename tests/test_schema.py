"""Tables that Hugging Face tools show as pictures, and a check that names what is wrong with a stranger's."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p2pz_ray.collection import IMAGE, Columns, check_schema, collection_schema, encode, pairs_schema, table_bytes
from p2pz_ray.errors import ConfigError


def picture(value: int = 0) -> dict[str, object]:
    return {"bytes": encode(np.full((16, 24, 3), value, np.uint8)), "path": None}


def pairs(count: int) -> pa.Table:
    rows = [
        {"id": f"{i}", "edit": "cat2dog", "status": "ok", "source_image": picture(i), "edited_image": picture(i + 1)}
        for i in range(count - 1)
    ]
    failed = {"id": "broken", "edit": "cat2dog", "status": "error", "error": "The file is empty (0 bytes)."}
    return pa.Table.from_pylist([*rows, failed], schema=pairs_schema())


def test_pairs_have_the_agreed_columns_in_order() -> None:
    schema = pairs_schema({"made_by": "a test"})
    assert schema.names == ["id", "edit", "status", "error", "source_image", "edited_image", "caption", "seed"]
    assert schema.field("source_image").type == schema.field("edited_image").type == IMAGE
    assert schema.field("seed").type == pa.int64()
    assert schema.metadata[b"made_by"] == b"a test"
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["edited_image"] == {"_type": "Image"}


def test_a_collection_has_what_was_asked_for() -> None:
    assert collection_schema().names == ["id", "image", "caption"]
    names = collection_schema(["cat2dog", "cat2cow"], mask=True, scene=True).names
    assert names == ["id", "image", "caption", "mask", "scene", "truth_cat2dog", "truth_cat2cow"]


def test_load_dataset_shows_decoded_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "pairs.parquet").write_bytes(table_bytes(pairs(3)))
    files = str(tmp_path / "*.parquet")
    dataset = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train")
    assert isinstance(dataset.features["source_image"], datasets.Image)
    assert dataset.features["seed"].dtype == "int64"
    assert dataset[1]["source_image"].size == (24, 16)
    assert np.asarray(dataset[1]["edited_image"]).max() == 2
    assert dataset[2]["edited_image"] is None


def test_table_bytes_keep_the_table_in_small_row_groups_and_the_same_bytes() -> None:
    table = pairs(250)
    data = table_bytes(table)
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.read().equals(table)
    assert file.schema_arrow.metadata == table.schema.metadata
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [100, 100, 50]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert table_bytes(table) == data


def test_large_pictures_get_row_groups_of_fewer_rows() -> None:
    large = {"bytes": bytes(4 * 2**20), "path": None}
    table = pa.Table.from_pylist([{"id": str(i), "image": large} for i in range(20)], schema=collection_schema())
    file = pq.ParquetFile(io.BytesIO(table_bytes(table)))
    assert 2 <= file.metadata.num_row_groups <= 4


def test_an_empty_table_is_a_readable_file() -> None:
    table = pairs_schema().empty_table()
    assert pq.read_table(io.BytesIO(table_bytes(table))).equals(table)


@pytest.mark.parametrize(
    "kind",
    [
        IMAGE,
        pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary()), ("more", pa.int8())]),
        pa.struct([("bytes", pa.binary())]),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_every_usual_image_column_is_accepted(kind: pa.DataType) -> None:
    check_schema(pa.schema([("image", kind)]), "a.parquet")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([("picture", IMAGE), ("text", pa.string())], "no image column 'image'; the columns are 'picture', 'text'"),
        ([("image", pa.list_(pa.uint8()))], "image column 'image' has type list"),
        ([("image", pa.struct([("pixels", pa.binary())]))], "image column 'image' has type struct"),
        ([("image", pa.struct([("bytes", pa.string())]))], "image column 'image' has type struct"),
        ([("image", IMAGE), ("image", IMAGE)], "2 columns named 'image'"),
        ([("image", IMAGE), ("id", pa.list_(pa.string()))], "id column 'id' has type list"),
        ([("image", IMAGE), ("caption", pa.int64())], "caption column 'caption' has type int64"),
        ([("image", IMAGE), ("caption", pa.list_(pa.int64()))], "caption column 'caption' has type list"),
    ],
)
def test_a_wrong_column_is_named_with_the_file(fields: list[tuple[str, pa.DataType]], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_schema(pa.schema(fields), "s3://b/a.parquet")
    assert str(caught.value).startswith("s3://b/a.parquet: ")
    assert words in str(caught.value)


def test_columns_named_on_purpose_must_be_there() -> None:
    schema = pa.schema([("photo", IMAGE)])
    check_schema(schema, "a", Columns(image="photo"))
    with pytest.raises(ConfigError, match="no id column 'key'"):
        check_schema(schema, "a", Columns(image="photo", id="key"))
    with pytest.raises(ConfigError, match="no caption column 'text'"):
        check_schema(schema, "a", Columns(image="photo", caption="text"))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("registered", [False, True])
def test_extension_types_are_refused_wherever_they_hide(nested: bool, registered: bool) -> None:
    if registered:
        extension = pa.field("x", pa.uuid())
    else:
        extension = pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "ray.data.arrow_tensor"})
    field = pa.field("x", pa.list_(pa.struct([extension]))) if nested else extension
    with pytest.raises(ConfigError, match=r"column 'x' holds the extension type (arrow\.uuid|ray\.data)"):
        check_schema(pa.schema([pa.field("image", IMAGE), field]), "a.parquet")
