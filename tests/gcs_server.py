"""A Google Cloud Storage on this machine that answers real HTTP. The emulator takes no notice of the precondition under
which a file is created, so it is met here, as Google documents it: 412 where there is such an object already."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

# Read when gcsfs is imported: else it asks Google's gRPC servers of what kind each bucket is, for a minute in vain.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import pytest


@contextmanager
def gcs_server() -> Iterator[dict[str, Any]]:
    """Storage options that reach the server, where the bucket "bucket" stands; skips where GCS isn't installed."""
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    insert = emulator.objects.insert

    def conditional(request: Any, response: Any, storage: Any) -> None:
        if request.query.get("ifGenerationMatch") == ["0"]:
            [name] = request.query.get("name") or [request.data["meta"]["name"]]
            if name in storage.objects.get(request.params["bucket_name"], {}):
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
        insert(request, response, storage)

    handlers = [
        (path, {method: conditional if call is insert else call for method, call in calls.items()})
        for path, calls in emulator.HANDLERS
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(emulator, "HANDLERS", handlers)
        with emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket") as server:
            # A client that goes away in the middle of an answer is no news.
            server._api._httpd.handle_error = lambda *_: None
            port = server._api._httpd.server_address[1]
            yield {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon", "project": "test"}
