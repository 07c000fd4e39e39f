"""Hugging Face's ImageFolder: metadata.jsonl, metadata.csv or metadata.parquet next to the pictures that it names."""

from __future__ import annotations

import csv
import io
import posixpath
from dataclasses import replace

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from p2pz_ray.collection.schema import Columns, is_bytes, is_text

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_IMAGES = ("file_name", "image_file_name", "jpg", "jpeg", "png", "webp")
"""Other projects' names for the column of images: ImageFolder's, then img2dataset's, which are image formats."""
_CAPTIONS = ("text", "prompt")


def is_metadata(path: str) -> bool:
    """Whether a file describes the pictures in its folder."""
    return posixpath.basename(path) in NAMES


def rows(data: bytes, kind: str) -> pa.Table:
    """The rows of a `jsonl` or `csv` file; all cells of a csv are text. Raises Arrow's errors if the file is broken."""
    if kind == "jsonl":
        return pa.json.read_json(io.BytesIO(data), parse_options=pa.json.ParseOptions(newlines_in_values=False))
    header = next(csv.reader(io.StringIO(data[: 1 << 20].decode("utf-8-sig", "replace"))), [])
    convert = pa.csv.ConvertOptions(
        check_utf8=False, column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True
    )
    return pa.csv.read_csv(
        io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=convert,
    )


def resolve_columns(columns: Columns, schema: pa.Schema) -> tuple[Columns, bool]:
    """The columns under the names that a table has for them: where it lacks the default names, those of other projects.
    And whether its ids are paths relative to the table's own folder."""
    if columns.image != Columns.image or Columns.image in schema.names:
        return columns, False
    image = next((name for name in _IMAGES if name in schema.names), None)
    if image is None or not (is_text(schema.field(image).type) or is_bytes(schema.field(image).type)):
        return columns, False
    caption, id = columns.caption, columns.id
    if caption == Columns.caption and caption not in schema.names:
        caption = next((name for name in _CAPTIONS if name in schema.names), caption)
    by_path = id == Columns.id and id not in schema.names and image.endswith("file_name")
    if by_path:
        id = image
    elif id == Columns.id and id not in schema.names and "key" in schema.names:
        id = "key"
    return replace(columns, id=id, image=image, caption=caption), by_path
