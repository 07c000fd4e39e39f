"""The version of a file: its size, and an ETag, generation or time from its storage."""

from __future__ import annotations

from typing import Any

# Keys of fsspec's `info` that identify a version, the most reliable first: GCS (whose ETag changes with more than the
# file), S3 and HTTP, the Hugging Face hub, then times.
_VERSION_KEYS = (
    *("generation", "ETag", "etag", "md5Hash", "version_id", "xet_hash", "blob_id"),
    *("LastModified", "mtime", "updated", "created"),
)


def planned_size(version: str) -> int | None:
    """The size in bytes that a `fingerprint` includes, or None."""
    size = version.partition("-")[0]
    return int(size) if size.isdigit() else None


def fingerprint(info: dict[str, Any]) -> str:
    """The version of a file, from fsspec's `info`; see `Store.fingerprint`."""
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return f"{info.get('size')}-{version.strip(chr(34))}"
