"""An S3 on this machine that answers real HTTP, for tests of what a local disk can't show."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from p2pz_ray.storage.store import Store


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """Storage options that reach the server, where the bucket "bucket" stands; skips where S3 isn't installed."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # Its buckets are the process's, and would hold what an earlier server was given.
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        options = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
        Store("s3://bucket", options).fs.makedirs("bucket", exist_ok=True)
        yield options
    finally:
        server.stop()
