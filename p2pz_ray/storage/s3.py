"""Reads that only S3 supports: bytes of one version of a file."""

from __future__ import annotations

from typing import Any, cast

from p2pz_ray.storage.failure import ChangedFileError


async def of_version(fs: Any, path: str, etag: str, start: int, stop: int | None) -> bytes:
    """Bytes of a file on S3 that has this ETag. Raises ChangedFileError if it has another one."""
    bucket, key, _ = fs.split_path(path)
    try:
        part = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key, IfMatch=f'"{etag}"', **part)
    except OSError as error:
        answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
        if answer.get("HTTPStatusCode") == 412:  # the condition isn't met
            raise ChangedFileError(f"s3://{path}") from error
        raise
    async with response["Body"] as body:
        return cast(bytes, await body.read())
