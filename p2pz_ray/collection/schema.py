"""The columns of collections and of pairs, and the check that a table has them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.errors import ConfigError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded image, as Hugging Face `datasets` stores it."""

ROW_GROUP_BYTES = 32 * 2**20
ROW_GROUP_ROWS = 100
_DTYPES = {pa.string(): "string", pa.int64(): "int64"}


@dataclass(frozen=True)
class Columns:
    """The names of the columns in a collection's tables.

    id: text, bytes, numbers or dates; may be absent under this default name, and ids are then made from file and row.
    image: struct<bytes, path>, the encoded bytes themselves, or a path (relative to the table's file) or URI.
    caption: text, or lists of it, whose first is taken; may be absent under this default name. None reads none.
    mask: as an image; None reads none.
    masks: a folder's URI, of masks for a folder of images, by the same names; None reads none.
    conditions: further pictures, as images.

    In a tar, pictures are what follows a member's first dot, such as mask.png. Each column may be dictionary-
    coded, and of type null where a file has nothing in it.
    """

    id: str = "id"
    image: str = "image"
    caption: str | None = "caption"
    mask: str | None = None
    masks: str | None = None
    conditions: tuple[str, ...] = ()


def pairs_schema(extra_metadata: dict[str, str] | None = None, mask: bool = False, conditions: int = 0) -> pa.Schema:
    """The pairs: one row for each (id, edit), failed ones included.

    `status` is ok, error or flagged; `error` is the sentence; `seed` is the image's random seed; `mask`, if
    requested, is a picture of the mask that confined the edit, or null; `condition_1` and so on, if requested, are the
    pictures that conditions showed to the UNet.
    """
    fields = [
        ("id", pa.string()),
        ("edit", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("source_image", IMAGE),
        ("edited_image", IMAGE),
        ("caption", pa.string()),
        ("seed", pa.int64()),
    ]
    fields += [("mask", IMAGE)] * mask + [(f"condition_{i}", IMAGE) for i in range(1, conditions + 1)]
    return _with_features(pa.schema(fields), extra_metadata)


def collection_schema(
    truth_edits: Sequence[str] = (), mask: bool = False, scene: bool = False, sketches: bool = False
) -> pa.Schema:
    """A collection: id, image, caption; and where truth is known the object's `mask` (an image), the `scene`
    (JSON) and, for each edit, its `truth_EDIT` image, and with `sketches` that truth's outline, `sketch_EDIT`."""
    fields = [("id", pa.string()), ("image", IMAGE), ("caption", pa.string())]
    fields += [("mask", IMAGE)] * mask + [("scene", pa.string())] * scene
    fields += [(f"truth_{edit}", IMAGE) for edit in truth_edits]
    fields += [(f"sketch_{edit}", IMAGE) for edit in truth_edits if sketches]
    return _with_features(pa.schema(fields))


def table_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file in memory, in row groups of at most 100 rows and about 32 MiB.

    Small row groups let a reader stream pictures, and let a plan of partitions share them out. The same table
    gives the same bytes.
    """
    rows = max(1, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
    plain = [field.name for field in table.schema if field.type != IMAGE]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        row_group_size=rows,
        # Dictionaries and statistics of pictures would only waste space.
        use_dictionary=plain,
        write_statistics=plain,
    )
    return buffer.getvalue()


def check_schema(schema: pa.Schema, where: str, columns: Columns | None = None) -> None:
    """Raise `ConfigError`, naming the file `where` and the column, unless the table can be read as a collection."""
    columns = columns or Columns()
    for field in schema:
        extension = _extension(field)
        if extension:
            raise ConfigError(
                f"{where}: column {field.name!r} holds the extension type {extension}, which isn't read for safety: "
                "store it as a plain type."
            )
    _check_column(schema, where, columns.image, "image", True, "struct<bytes, path>, bytes or paths", _is_image)
    _check_column(schema, where, columns.id, "id", columns.id != Columns.id, "text, numbers or dates", _is_id)
    if columns.caption is not None:
        needed = columns.caption != Columns.caption
        _check_column(schema, where, columns.caption, "caption", needed, "text or lists of it", _is_caption)
    if columns.mask is not None:
        _check_column(schema, where, columns.mask, "mask", True, "struct<bytes, path>, bytes or paths", _is_image)
    for name in columns.conditions:
        _check_column(schema, where, name, "condition", True, "struct<bytes, path>, bytes or paths", _is_image)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    kind = decoded(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes."""
    kind = decoded(kind)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, however it stores them."""
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def decoded(kind: pa.DataType) -> pa.DataType:
    """The type of the values, of a column that is dictionary- or run-end-coded too."""
    return decoded(kind.value_type) if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) else kind


def _is_id(kind: pa.DataType) -> bool:
    tests = (pa.types.is_null, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    plain = decoded(kind)
    return is_text(kind) or is_bytes(kind) or pa.types.is_temporal(plain) or any(test(plain) for test in tests)


def _is_caption(kind: pa.DataType) -> bool:
    plain = decoded(kind)
    if is_list(plain):
        return _is_caption(plain.value_type)
    return is_text(plain) or is_bytes(plain) or bool(pa.types.is_null(plain))


def _is_image(kind: pa.DataType) -> bool:
    kind = decoded(kind)
    if not pa.types.is_struct(kind):
        return is_text(kind) or is_bytes(kind) or bool(pa.types.is_null(kind))
    members = {field.name: decoded(field.type) for field in kind}
    checks = [
        test(members[name]) or pa.types.is_null(members[name])
        for name, test in (("bytes", is_bytes), ("path", is_text))
        if name in members
    ]
    return bool(checks) and all(checks)


def _check_column(
    schema: pa.Schema,
    where: str,
    name: str,
    role: str,
    needed: bool,
    wanted: str,
    test: Callable[[pa.DataType], bool],
) -> None:
    indices = schema.get_all_field_indices(name)
    if len(indices) > 1:
        raise ConfigError(f"{where}: there are {len(indices)} columns named {name!r}; the {role} column must be one.")
    if not indices:
        if needed:
            raise ConfigError(
                f"{where}: there is no {role} column {name!r}; the columns are {', '.join(map(repr, schema.names))}."
            )
        return
    kind = schema.field(indices[0]).type
    if not test(kind):
        raise ConfigError(f"{where}: the {role} column {name!r} has type {kind}; it must hold {wanted}.")


def _extension(field: pa.Field) -> str | None:
    """The name of the first extension type in a field, registered with Arrow or not."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    unregistered = (field.metadata or {}).get(b"ARROW:extension:name")
    if unregistered is not None:
        return str(unregistered.decode(errors="replace"))
    if pa.types.is_dictionary(field.type):
        return _extension(pa.field("values", field.type.value_type))
    inner = (field.type.field(i) for i in range(field.type.num_fields))
    return next((name for name in map(_extension, inner) if name), None)


def _with_features(schema: pa.Schema, extra: dict[str, str] | None = None) -> pa.Schema:
    features = {
        field.name: {"_type": "Image"} if field.type == IMAGE else {"dtype": _DTYPES[field.type], "_type": "Value"}
        for field in schema
    }
    return schema.with_metadata({**(extra or {}), "huggingface": json.dumps({"info": {"features": features}})})
