"""The assistants' endpoint, called as assistants do: by the client of the protocol's own SDK."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from mcp import Client
from PIL import Image
from test_serving import base64_of, config_for, service_for
from tiny_job import tiny_settings, translated

from p2pz_ray.config import TranslateConfig, load
from p2pz_ray.picture.codec import encode
from p2pz_ray.running.submit import JobServer
from p2pz_ray.serving.web.api import build_app
from p2pz_ray.serving.web.service import Service

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bulk")


@pytest.fixture(scope="module")
def service(tiny_model: Path, folder: Path) -> Service:
    bulk = {"address": "http://127.0.0.1:1", "input": f"{folder}/in", "output": str(folder)}
    return service_for(config_for(tiny_model, bulk=bulk))


@pytest.fixture(scope="module")
def call(service: Service) -> Iterator[Call]:
    """Calls a tool, or lists them: what the SDK's client gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(build_app(service), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)

    def call(tool: str | None = None, **arguments: Any) -> Any:
        async def asked() -> Any:
            async with Client(f"http://127.0.0.1:{port}/mcp") as client:
                return await (client.list_tools() if tool is None else client.call_tool(tool, arguments))

        work: Coroutine[Any, Any, Any] = asked()
        return asyncio.run(work)

    yield call
    server.should_exit = True
    thread.join(10)


def test_an_assistant_finds_the_tools_and_the_edits(call: Call) -> None:
    tools = [tool.name for tool in call().tools]
    assert tools == ["list_edits", "edit_image", "make_direction", "submit_collection", "run_status"]
    told = json.loads(call("list_edits").content[0].text)
    assert [edit["name"] for edit in told["edits"]] == ["cat2dog", "cat2glasses", "both"]
    made = json.loads(call("make_direction", source="cat", target="fox").content[0].text)
    assert made["edit"] == "cat to fox"


def test_an_assistant_edits_a_picture(call: Call) -> None:
    cat = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    picture, told = call("edit_image", image=base64_of(encode(cat)), edit="turn the cat into a dog", seed=4).content
    assert picture.mime_type == "image/png"
    edited = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.data))))
    assert edited.shape == (64, 64, 3)
    assert not np.array_equal(edited, cat)
    assert (json.loads(told.text)["edit"], json.loads(told.text)["seed"]) == ("cat2dog", 4)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("edit_image", {"image": "", "edit": "make it nicer"}, "names no edit"),
        ("edit_image", {"image": "http://10.0.0.1/x.png", "edit": "cat2dog"}, "fetches none"),
        ("edit_image", {"image": "AAAA", "edit": "cat2dog"}, "not an image"),
        ("make_direction", {"source": "", "target": "dog"}, "source has 0 letters"),
        ("submit_collection", {"collection": "../etc", "edit": "cat2dog", "run": "r"}, "collection is '../etc'"),
        ("submit_collection", {"collection": "cats", "edit": "cat2dog", "run": "r"}, "http://127.0.0.1:1"),
        ("run_status", {"run": "nothing"}, "nothing"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(call: Call, tool: str, arguments: Any, said: str) -> None:
    answer = call(tool, **arguments)
    assert answer.is_error
    assert said in answer.content[0].text


def test_a_collection_is_sent_with_the_services_own_settings_and_its_run_is_followed(
    call: Call, folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def submit(_: Any, verb: str, config: str | None, settings: list[str], folder: Path) -> str:
        assert (verb, config) == ("translate", None)
        sent.append(load(None, settings, TranslateConfig))
        return "job-1"

    monkeypatch.setattr(JobServer, "__init__", lambda *_: None)
    monkeypatch.setattr(JobServer, "submit", submit)
    told = json.loads(call("submit_collection", collection="cats", edit="both", run="run").content[0].text)
    assert told["job"] == "job-1"
    call("submit_collection", collection="cats", edit="cat to tiger", run="two")
    first, second = sent
    assert (first.input.uri, first.output) == (f"{folder}/in/cats", f"{folder}/run")
    assert (first.model.name, first.inversion.steps) == (str(tiny_model), 2)
    assert list(first.edits) == ["cat2dog", "cat2glasses", "both"]
    assert second.edits["cat2tiger"].target == "tiger"
    translated(tiny_settings(folder, tiny_model))
    assert "6 of 6" in call("run_status", run="run").content[0].text
