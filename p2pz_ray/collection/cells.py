"""The values of untrusted columns: pictures and texts from every type that can hold them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from p2pz_ray.collection.schema import is_list, is_text

_BYTES = (
    (pa.types.is_string, pa.binary()),
    (pa.types.is_large_string, pa.large_binary()),
    (pa.types.is_string_view, pa.binary_view()),
)


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary or run-length coding, and with texts as bytes, so that invalid UTF-8 in one row
    does not affect the others. Raises Arrow's errors if the column is broken."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column.validate(full=not is_text(kind))
        return plain(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        column.validate(full=True)
        return plain(pc.run_end_decode(column))
    if pa.types.is_struct(kind):
        column.validate()
        return pa.StructArray.from_arrays(
            [plain(part) for part in column.flatten()], names=[field.name for field in kind]
        )
    if is_list(kind) and is_text(kind.value_type):
        return column.view(_list_of_bytes(kind))
    return column.view(_bytes_of(kind)) if is_text(kind) else column


def pictures(column: pa.Array, kind: pa.DataType) -> tuple[list[bytes | None], list[str | None]]:
    """The bytes and the paths of a column that `plain` returned; `kind` is the type that it has in its file."""
    none: list[Any] = [None] * len(column)
    if pa.types.is_struct(column.type):
        # Fields are null where the struct is.
        parts = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
        data = parts["bytes"].to_pylist() if "bytes" in parts else none
        return data, texts(parts["path"]) if "path" in parts else none
    return (none, texts(column)) if is_text(kind) else (column.to_pylist(), none)


def texts(column: pa.Array) -> list[str | None]:
    """The texts of a column that `plain` returned; for lists their first text. Invalid UTF-8 is backslash-escaped;
    whole floating-point numbers are written as integers; "" and NaN are None."""
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return next((text for text in map(_text, value) if text is not None), None)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        value = None if value != value else int(value) if value.is_integer() else value
    return None if value is None or value == "" else str(value)


def _bytes_of(kind: pa.DataType) -> pa.DataType:
    return next(as_bytes for test, as_bytes in _BYTES if test(kind))


def _list_of_bytes(kind: pa.DataType) -> pa.DataType:
    inner = _bytes_of(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    makers = (
        (pa.types.is_large_list, pa.large_list),
        (pa.types.is_list_view, pa.list_view),
        (pa.types.is_large_list_view, pa.large_list_view),
    )
    return next((maker for test, maker in makers if test(kind)), pa.list_)(inner)
