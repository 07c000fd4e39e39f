"""A stage of a Ray Data pipeline edits as a run does."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from PIL import Image
from tiny_job import tiny_settings, translated

from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.translation.edit_batch import EditBatch

COLUMNS = ["status", "error", "source_image", "caption", "seed"]


def of(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in ("model", "edits", "inversion", "batch_size", *names)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[dict[str, Any], dict[Any, Any]]:
    given = tiny_settings(tmp_path_factory.mktemp("run"), tiny_model, images=4)
    return given, translated(given)


def test_a_pipelines_pairs_are_the_runs(run: tuple[dict[str, Any], dict[Any, Any]], local_ray: None) -> None:
    given, expected = run
    pairs = ray.data.read_parquet(given["input"]["uri"]).map_batches(
        EditBatch, fn_constructor_args=(of(given),), batch_format="pyarrow", batch_size=3, concurrency=1
    )
    rows = {(row["id"], row["edit"]): row for row in pairs.take_all()}
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        assert {name: row[name] for name in COLUMNS} == {name: expected[key][name] for name in COLUMNS}
        ours, runs = (
            np.asarray(Image.open(io.BytesIO(pair["edited_image"]["bytes"]))).astype(int)
            for pair in (row, expected[key])
        )
        assert np.abs(ours - runs).max() <= 1  # batches of other sizes round otherwise


@pytest.mark.parametrize("form", ["bytes", "struct", "tensor", "large bytes"])
def test_images_in_every_form_are_the_same_images(
    run: tuple[dict[str, Any], dict[Any, Any]], local_ray: None, form: str
) -> None:
    given, expected = run
    ids = sorted({id for id, _ in expected})
    encoded = [expected[id, "cat2dog"]["source_image"]["bytes"] for id in ids]
    kinds = {"bytes": pa.binary(), "large bytes": pa.large_binary()}
    if form == "tensor":
        pixels = np.stack([decode(data, DecodePolicy((64, 64))) for data in encoded])
        images = ray.data.from_numpy(pixels).to_arrow_refs()
        column = ray.get(images)[0]["data"].combine_chunks()
    elif form == "struct":
        column = pa.array([{"bytes": data, "path": "x.png"} for data in encoded])
    else:
        column = pa.array(encoded, kinds[form])
    captions = [expected[id, "cat2dog"]["caption"] for id in ids]
    table = EditBatch(of(given))(pa.table({"id": ids, "image": column, "caption": captions}))
    found = {(row["id"], row["edit"]): row["edited_image"] for row in table.to_pylist()}
    assert found == {key: row["edited_image"] for key, row in expected.items()}


def test_an_image_that_can_not_be_edited_is_an_error_row_between_its_neighbours(
    run: tuple[dict[str, Any], dict[Any, Any]],
) -> None:
    given, expected = run
    good = next(iter(expected.values()))["source_image"]["bytes"]
    table = EditBatch(of(given))(pa.table({"id": ["a", "b", "c"], "image": [good, b"no picture", None]}))
    rows = table.to_pylist()
    assert [(row["id"], row["status"]) for row in rows] == [
        *(("a", "ok"), ("a", "ok"), ("b", "error"), ("b", "error"), ("c", "error"), ("c", "error"))
    ]
    assert "not an image" in rows[2]["error"]


@pytest.mark.parametrize(
    ("config", "table", "said"),
    [
        ({"stepz": 1}, None, "no key stepz"),
        ({"inversion": {"steps": 2, "cache": "x"}}, None, "inversion.cache keeps a run's partitions"),
        ({}, pa.table({"id": ["a"], "picture": [b"x"]}), "no image column 'image'; its columns are id, picture"),
        ({}, pa.table({"image": [b"x"]}), "no id column 'id'"),
        ({}, pa.table({"id": [None], "image": [b"x"]}), "A row has no id"),
        ({}, pa.table({"id": ["a"], "image": ["a.png"]}), "names pictures by path"),
    ],
)
def test_what_can_not_be_edited_at_all_is_one_sentence(
    run: tuple[dict[str, Any], dict[Any, Any]], config: dict[str, Any], table: pa.Table | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        EditBatch(of(run[0]) | config)(table)
