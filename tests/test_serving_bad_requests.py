"""Requests made by lot, nearly all of them bad: each is answered by a sentence, none by a fault of ours."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_serving import OWN, Slow, base64_of, config_for

from p2pz_ray.picture.codec import encode
from p2pz_ray.serving.prepare import prepare
from p2pz_ray.serving.task import Answer, Task
from p2pz_ray.serving.web.api import build_app
from p2pz_ray.serving.web.service import Service

PNG = encode(np.zeros((64, 64, 3), np.uint8))
EACH = settings(max_examples=170, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TEXT = st.text(max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
DAMAGED = st.builds(lambda at, byte: PNG[:at] + byte + PNG[at + 1 :], st.integers(0, 200), st.binary())
BYTES = st.binary(max_size=200) | DAMAGED
FIELDS = st.sampled_from(["edits", "mask", "model", "seed", "id", "steps", "cfg", "stream", "caption", "x"])
FORM = st.sampled_from(["prompt", "n", "size", "seed", "strength", "model", "response_format", "x"])
KINDS = ["application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain", ""]


class Copying(Slow):
    """Answers at once with the picture itself."""

    async def edit(self, task: Task) -> Answer:
        await asyncio.sleep(0)
        return Answer(np.repeat(task.pixels[None], len(task.kind.edits), 0), task.caption, 1, 0.0, 1)


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> Iterator[TestClient]:
    config = config_for(tiny_model, limits={"body": 1 << 20})
    with TestClient(build_app(Service(prepare(config), Copying())), OWN, raise_server_exceptions=False) as client:
        yield client


def check(response: Any) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].endswith((".", '."', "!"))
        assert error["message"].isprintable()


@EACH
@given(field=FIELDS, value=JSON, image=st.sampled_from([base64_of(PNG), "", "data:,x", "file:///etc/passwd"]) | TEXT)
def test_bodies(client: TestClient, field: str, value: Any, image: str) -> None:
    body = {"image": image, "edits": ["cat2dog"], field: value}
    content = json.dumps(body).encode()
    check(client.post("/v1/edits", content=content, headers={"content-type": "application/json"}))


@EACH
@given(image=BYTES, mask=st.none() | BYTES, field=FORM, value=TEXT, prompt=TEXT)
def test_forms(client: TestClient, image: bytes, mask: bytes | None, field: str, value: str, prompt: str) -> None:
    files = {"image": ("a.png", image)} | ({} if mask is None else {"mask": ("m.png", mask)})
    check(client.post("/v1/images/edits", files=files, data={"prompt": prompt, field: value}))


@EACH
@given(
    path=st.sampled_from(["/v1/edits", "/v1/images/edits", "/v1/directions", "/v1/scene", "/mcp", "/v1/nothing"]),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    content=st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(["host", "origin", "authorization", "content-length", "x-request-id", "accept"]),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
def test_headers(client: TestClient, path: str, method: str, content: bytes, kind: str, name: str, value: str) -> None:
    assume((path, method) != ("/mcp", "GET"))  # the protocol's stream, which ends when its client goes
    headers = {"content-type": kind, name: value}
    response = client.request(method, path, content=content, headers=headers)
    if path == "/mcp":  # the protocol has a form of its own for errors
        assert response.status_code < 500
    else:
        check(response)
