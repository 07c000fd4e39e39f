"""What names one version of a file: its size and whatever its storage tells of a change."""

from __future__ import annotations

from typing import Any

# What makes a file its own version, in the order of trust: S3 and HTTP, GCS, the Hugging Face hub, then whatever
# carries a time.
_VERSION_KEYS = (
    *("ETag", "etag", "generation", "md5Hash", "version_id", "xet_hash", "blob_id"),
    *("LastModified", "mtime", "updated", "created"),
)


def planned_size(version: str) -> int | None:
    """The bytes of a file of this `fingerprint`, None where that doesn't say."""
    size = version.partition("-")[0]
    return int(size) if size.isdigit() else None


def fingerprint(info: dict[str, Any]) -> str:
    """The version of a file that fsspec's `info` describes, as `Store.fingerprint` gives it."""
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return f"{info.get('size')}-{version.strip(chr(34))}"
