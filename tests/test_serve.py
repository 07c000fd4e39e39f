"""`p2pz serve` as people start it: one service for all tests here, asked over HTTP, then stopped by Ctrl-C."""

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from mcp import Client
from openai import BadRequestError, OpenAI
from test_serving import pixels_of
from test_student_engine import write_student
from tiny_job import tiny_settings, translated

from p2pz_ray.picture.codec import DecodePolicy, decode

IMAGES = 8
pytestmark = pytest.mark.slow


@dataclass
class Served:
    process: "subprocess.Popen[str]"
    url: str
    folder: Path

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service of the tiny model and a tiny student, with the settings of `tiny_job`."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [
        f"port={port}",
        f"model={tiny_model}",
        f"students=[{write_student(folder)}]",
        "edits.cat2dog={source: cat, target: dog, count: 8}",
        "inversion.steps=2",
        "batch.size=8",
        "words.count=8",
    ]
    command = [sys.executable, "-m", "p2pz_ray.cli", "serve", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"Serving at http://127.0.0.1:{port}"), line
        yield Served(process, f"http://127.0.0.1:{port}", folder)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def sources(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = tiny_settings(folder, Path("mini"), images=IMAGES, per_partition=IMAGES)
    return settings | {"batch_size": IMAGES, "seed": 7, "output": str(folder / "run")} | changes


def decoded(row: dict[str, Any], column: str) -> np.ndarray:
    return decode(row[column]["bytes"], DecodePolicy((64, 64)))


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_eight_requests_at_once_get_the_pixels_that_a_run_gives(
    served: Served, tiny_model: Path, tmp_path: Path, model: str
) -> None:
    words = {"source": "cat", "target": "dog"}
    given = sources(tmp_path, edits={"cat2dog": words if model == "student" else {**words, "count": 8}})
    if model == "student":
        del given["model"], given["inversion"]
        given["student"] = str(served.folder / "student")
    else:
        given["model"] = str(tiny_model)
    pairs = translated(given)
    [world] = (tmp_path / "world").glob("*.parquet")
    rows = pq.read_table(world).to_pylist()
    client, named = served.client(), "student" if model == "student" else tiny_model.name

    def edited(row: dict[str, Any]) -> tuple[np.ndarray, int]:
        body = {
            "image": base64.b64encode(row["image"]["bytes"]).decode(),
            "edits": ["cat2dog"],
            "model": named,
            "caption": row["caption"],
            "seed": 7,
            "id": row["id"],
        }
        found: Any = client.post("/edits", body=body, cast_to=object)
        return pixels_of(found["data"][0]["b64_json"]), found["cost"]["batch"]

    with ThreadPoolExecutor(IMAGES) as pool:
        answers = list(pool.map(edited, rows))
    for row, (pixels, _) in zip(rows, answers, strict=True):
        expected = decoded(pairs[row["id"], "cat2dog"], "edited_image")
        assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert max(batch for _, batch in answers) > 1


def test_the_openai_client_edits_a_picture_and_understands_a_refusal(served: Served, tiny_model: Path) -> None:
    client = served.client()
    picture = Path(__file__).parents[1] / "p2pz_ray" / "mini" / "cat2dog.png"
    with picture.open("rb") as image:
        answer = client.images.edit(model=tiny_model.name, image=image, prompt="turn the cat into a dog")
    assert answer.data is not None
    assert pixels_of(answer.data[0].b64_json or "").shape == (64, 64, 3)
    assert [model.id for model in client.models.list()] == [tiny_model.name, "student"]
    with picture.open("rb") as image, pytest.raises(BadRequestError, match="names no edit"):
        client.images.edit(model=tiny_model.name, image=image, prompt="make it nicer")


def test_an_assistant_reaches_it(served: Served) -> None:
    async def tools() -> list[str]:
        async with Client(f"{served.url}/mcp") as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    assert asyncio.run(tools()) == ["list_edits", "edit_image", "make_direction"]


def test_ctrl_c_ends_all_and_leaves_no_process(served: Served) -> None:
    own = psutil.Process(served.process.pid)
    below = own.children(recursive=True)
    assert len(below) > 3
    served.process.send_signal(signal.SIGINT)
    out, error = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    assert out == "Stopping.\n"
    assert error.removeprefix("Starting Ray …\n") == ""  # which a slow machine may say
    psutil.wait_procs(below, timeout=20)
    assert [process for process in below if process.is_running()] == []
