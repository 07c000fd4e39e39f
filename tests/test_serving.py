"""What a service answers, asked in this process without Ray: edits, forms, errors, batches, who may call."""

import asyncio
import base64
import io
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from test_student_engine import write_skilled, write_student

from p2pz_ray.config import load
from p2pz_ray.config.edits import EditConfig
from p2pz_ray.config.serve import ServeConfig, is_loopback
from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import encode
from p2pz_ray.serving.engines import ServedEditor, ServedStudents
from p2pz_ray.serving.gathering import Gathering, Waiting
from p2pz_ray.serving.prepare import prepare
from p2pz_ray.serving.task import Answer, Progress, Task
from p2pz_ray.serving.web.api import build_app
from p2pz_ray.serving.web.prompt import read, title
from p2pz_ray.serving.web.refusal import busy
from p2pz_ray.serving.web.service import Service

STEPS = 2
OWN = "http://localhost"


def config_for(model: Path, **changes: Any) -> ServeConfig:
    words = {"source": "cat", "target": "dog", "count": 8}
    glasses = {"source": "cat", "target": "cat with glasses", "count": 8}
    given = {
        "model": str(model),
        "edits": {"cat2dog": words, "cat2glasses": glasses, "both": {"compose": ["cat2dog", "cat2glasses"]}},
        "inversion": {"steps": STEPS},
        "words": {"count": 8},
        "batch": {"size": 4, "wait": 0.0},
    }
    return ServeConfig.model_validate(given | changes)


def service_for(config: ServeConfig) -> Service:
    offer = prepare(config)
    return Service(offer, ServedEditor(offer.config), ServedStudents(offer.config) if offer.students else None)


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    students = [
        str(write_student(tmp_path_factory.mktemp("student"), edit="cat2fox")),
        str(write_skilled(tmp_path_factory.mktemp("skilled"))),
    ]
    return service_for(config_for(tiny_model, students=students, limits={"pictures": 3, "body": 1 << 20}))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(build_app(service), OWN) as client:
        yield client


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def asked(client: TestClient, cat: np.ndarray, edits: list[Any], **fields: Any) -> Any:
    return client.post("/v1/edits", json={"image": base64_of(encode(cat)), "edits": edits, **fields})


def form(client: TestClient, data: bytes, prompt: str, mask: bytes | None = None, **fields: str) -> Any:
    files = {"image": ("cat.png", data, "image/png")} | ({} if mask is None else {"mask": ("m.png", mask, "image/png")})
    return client.post("/v1/images/edits", files=files, data={"prompt": prompt, **fields})


def events_of(text: str) -> list[tuple[str, Any]]:
    pairs = [event.split("\n") for event in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


# ------------------------------------------------------------------------------------------------------ what is made


def test_a_request_for_several_edits_gets_a_picture_of_each_and_what_it_cost(
    client: TestClient, cat: np.ndarray
) -> None:
    half = {"edit": "cat2dog", "strength": 0.5}
    composed = {"compose": [half, {"source": "cat", "target": "fox"}]}
    found = asked(client, cat, ["cat2dog", half, composed], seed=3, source=True).json()
    assert [one["edit"] for one in found["data"]] == ["cat2dog", "cat2dog", "cat2dog + cat to fox"]
    assert [one["strength"] for one in found["data"]] == [1.0, 0.5, [0.5, 1.0]]
    assert found["cost"]["steps"] == 2 * STEPS
    assert len({one["b64_json"] for one in found["data"]}) == 3
    assert np.array_equal(pixels_of(found["source"]), cat)


def test_an_edit_that_composes_others_is_their_sum(client: TestClient, cat: np.ndarray) -> None:
    found = asked(client, cat, ["both", {"compose": [{"edit": "cat2dog"}, {"edit": "cat2glasses"}]}]).json()["data"]
    assert found[0]["b64_json"] == found[1]["b64_json"]


def test_the_clients_form_makes_the_same_picture_as_the_full_one(client: TestClient, cat: np.ndarray) -> None:
    full = asked(client, cat, ["cat2dog"], seed=5).json()["data"]
    short = form(client, encode(cat), "Turn the cat into a dog.", seed="5", n="2", size="32x16").json()["data"]
    exact = form(client, encode(cat), "cat2dog", seed="5", quality="high", user="somebody").json()["data"]
    assert exact[0]["b64_json"] == full[0]["b64_json"]
    assert [one["seed"] for one in short] == [5, 6]
    assert pixels_of(short[0]["b64_json"]).shape == (16, 32, 3)


def test_both_masks_let_the_edit_go_where_they_say_and_nowhere_else(client: TestClient, cat: np.ndarray) -> None:
    free = np.zeros((64, 64), bool)
    free[16:48, 16:48] = True
    white = encode(np.repeat(free[..., None], 3, 2).astype(np.uint8) * 255)
    clear = io.BytesIO()
    Image.fromarray(np.dstack([cat, np.where(free, 0, 255).astype(np.uint8)])).save(clear, "PNG")
    full = asked(client, cat, ["cat2dog"], mask=base64_of(white)).json()["data"][0]
    short = form(client, encode(cat), "cat2dog", clear.getvalue()).json()["data"][0]
    edited = pixels_of(full["b64_json"])
    assert np.array_equal(edited[~free], cat[~free])
    assert not np.array_equal(edited[free], cat[free])
    assert short["b64_json"] == full["b64_json"]


def test_progress_counts_every_step_shows_previews_and_ends_with_the_picture(
    client: TestClient, cat: np.ndarray
) -> None:
    plain = asked(client, cat, ["cat2dog"]).json()["data"]
    streamed = asked(client, cat, ["cat2dog"], stream=True, preview_every=1)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *progress, (last, done) = events_of(streamed.text)
    assert [(name, told["step"], told["of"]) for name, told in progress] == [
        ("progress", step, 2 * STEPS) for step in range(1, 2 * STEPS + 1)
    ]
    assert [told["preview"] is not None for _, told in progress] == [False] * STEPS + [True] * (STEPS - 1) + [False]
    assert (last, done["data"]) == ("done", plain)


def test_the_student_edits_in_one_pass_and_says_what_it_cannot(
    client: TestClient, service: Service, cat: np.ndarray
) -> None:
    parts = [{"edit": "cat2dog", "strength": 0.5}, {"edit": "cat2horse", "strength": 0.25}]
    found = asked(client, cat, ["cat2fox", parts[0], {"compose": parts}], model="student").json()
    assert service.students is not None
    students = service.students.students  # type: ignore[attr-defined]
    wanted = [
        students["cat2fox"](cat[None])[0],
        students["cat2dog"](cat[None], edit="cat2dog", strength=0.5)[0],
        students["cat2dog"](cat[None], edit={"cat2dog": 0.5, "cat2horse": 0.25})[0],
    ]
    assert all(np.array_equal(pixels_of(m["b64_json"]), w) for m, w in zip(found["data"], wanted, strict=True))
    assert [made["strength"] for made in found["data"]] == [1.0, 0.5, [0.5, 0.25]]
    assert (found["model"], found["cost"]["steps"]) == ("student", 1)
    for edits, settings, said in (
        (["cat2glasses"], {}, "The student makes only cat2fox, cat2dog, cat2horse"),
        ([{"edit": "cat2fox", "strength": 0.5}], {}, "The student makes only cat2fox at strength 1"),
        ([{"edit": "cat2dog", "strength": 1.5}], {}, "The student makes cat2dog at strengths from 0 to 1"),
        ([{"compose": [{"edit": "cat2fox"}, {"edit": "cat2dog"}]}], {}, "The student makes only cat2fox at"),
        (["cat2dog"], {"steps": 9}, "no steps"),
    ):
        refused = asked(client, cat, edits, model="student", **settings)
        assert refused.status_code == 422
        assert said in refused.json()["error"]["message"]


def test_what_is_offered_is_listed(client: TestClient, tiny_model: Path) -> None:
    models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == [tiny_model.name, "student"]
    assert (models[0]["steps"], models[0]["size"]) == (STEPS, [64, 64])
    edits = {edit["name"]: edit for edit in client.get("/v1/edits").json()["data"]}
    assert edits["cat2dog"]["models"] == [tiny_model.name, "student"]
    assert models[1]["strongest"] == {"cat2fox": None, "cat2dog": 1.0, "cat2horse": 1.0}
    assert edits["cat2glasses"]["title"] == "cat: add glasses"
    assert client.get("/healthz").json()["status"] == "ok"
    assert "/v1/images/edits" in client.get("/openapi.json").json()["paths"]
    docs = client.get("/docs").text
    assert all(word in docs for word in ("POST /v1/edits", "preview_every", "num_inference_steps"))
    assert not re.search(r"(src|href)=.?(https?:)?//", docs)
    made = client.post("/v1/directions", json={"source": "cat", "target": "fox"}).json()
    assert made["edit"] == "cat to fox"


def test_an_edit_is_called_by_what_changes() -> None:
    assert title("sketch2oil", ("sketch of a cat", "oil pastel of a cat")) == "sketch → oil pastel"
    assert title("cat2hat", ("cat", "cat with a hat")) == "cat: add a hat"
    assert title("nameless", None) == "nameless"


def test_a_service_may_stand_below_a_path(service: Service) -> None:
    with TestClient(build_app(service), OWN, root_path="/mini") as client:
        assert '<base href="/mini/">' in client.get("/mini").text
        assert '<base href="/mini/">' in client.get("/mini/").text
        assert client.get("/mini/v1/edits").status_code == 200
        assert client.post("/mini/mcp", json={}).status_code != 404


@pytest.mark.parametrize(
    ("prompt", "edit"),
    [
        ("cat2dog", "cat2dog"),
        ("cat to dog", "cat2dog"),
        ("Cat → dog", "cat2dog"),
        ("turn the cat into a dog!", "cat2dog"),
        ("replace the cat with a dog", "cat2dog"),
        ("make it a dog", "cat2dog"),
        ("add glasses", "cat2glasses"),
        ("Give the dog glasses", "dog2glasses"),
        ("horse to zebra", ("horse", "zebra")),
        ("remove the hat", "unhat"),
        ("remove the glasses", None),
        ("make it nicer", None),
        ("", None),
    ],
)
def test_a_prompt_is_read(prompt: str, edit: str | tuple[str, str] | None) -> None:
    offered = {
        "cat2dog": ("cat", "dog"),
        "cat2glasses": ("cat", "cat with glasses"),
        "dog2glasses": ("dog", "dog with glasses"),
        "unhat": ("cat with a hat", "cat"),
        "nameless": None,
    }
    assert read(prompt, offered, words_allowed=True) == edit
    if isinstance(edit, tuple):
        assert read(prompt, offered, words_allowed=False) is None


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_cannot_be_used_is_refused_in_one_sentence_that_names_it(client: TestClient, cat: np.ndarray) -> None:
    png = encode(cat)
    opaque = io.BytesIO()
    Image.fromarray(cat).save(opaque, "PNG")
    cases = [
        (form(client, png, "make it nicer"), 400, "prompt"),
        (form(client, b"GIF89a but not", "cat2dog"), 415, "image"),
        (form(client, encode(cat[:4, :4]), "cat2dog"), 422, "image"),
        (form(client, png, "cat2dog", opaque.getvalue()), 400, "mask"),
        (form(client, png, "cat2dog", n="4"), 400, "n"),
        (form(client, png, "cat2dog", size="9999x1"), 400, "size"),
        (form(client, png, "cat2dog", strength="nan"), 400, "strength"),
        (form(client, png, "cat2dog", response_format="url"), 400, "response_format"),
        (form(client, png, "cat2dog", model="gpt-image-1"), 404, "model"),
        (client.post("/v1/images/edits", json={"prompt": "cat2dog"}), 415, None),
        (client.post("/v1/images/edits", data={"prompt": "cat2dog"}, files={"x": b""}), 400, "image"),
        (client.post("/v1/images/edits", content=b"--", headers={"content-type": "multipart/form-data"}), 400, None),
        (asked(client, cat, ["cat2cow"]), 422, "edits.0"),
        (asked(client, cat, []), 422, "edits"),
        (asked(client, cat, ["cat2dog"] * 4), 422, "edits"),
        (asked(client, cat, ["cat2dog"], steps=500), 422, "steps"),
        (asked(client, cat, ["cat2dog"], streem=True), 422, "streem"),
        (client.post("/v1/edits", json={"image": "http://10.0.0.1/x.png", "edits": ["cat2dog"]}), 400, "image"),
        (client.post("/v1/edits", json={"image": "%%%", "edits": ["cat2dog"]}), 400, "image"),
        (client.post("/v1/edits", content=b"{", headers={"content-type": "application/json"}), 400, None),
        (client.post("/v1/edits", content=b" " * (1 << 20) + b"{}"), 413, None),
        (client.get("/v1/nothing"), 404, None),
        (client.delete("/v1/edits"), 405, None),
    ]
    for response, status, param in cases:
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, param), error
        assert error["message"].rstrip().endswith("."), error
        assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8000"}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_hosts_and_origins_of_others_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/v1/edits", headers=headers).status_code == status


class Slow:
    """An engine that answers when it is let go, or refuses."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal, self.let_go = refusal, threading.Event()
        self.begun = threading.Semaphore(0)

    async def edit(self, task: Task) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        self.begun.release()
        await asyncio.to_thread(self.let_go.wait)
        return Answer(task.pixels[None], None, 1, 0.0, 1)

    async def watch(self, task: Task) -> AsyncIterator[Progress | Answer]:
        yield await self.edit(task)

    async def facts(self) -> dict[str, Any]:
        return {}

    async def make_direction(self, source: str, target: str) -> dict[str, Any]:
        return {}


def client_of(engine: Any, config: ServeConfig) -> TestClient:
    return TestClient(build_app(Service(prepare(config), engine)), OWN)


def test_a_token_is_asked_for_where_there_is_one(
    tiny_model: Path, cat: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="token"):
        load(None, ["host=0.0.0.0"], ServeConfig)
    config = config_for(tiny_model, host="0.0.0.0", hosts=["*"], token_env="P2PZ_TOKEN")
    with pytest.raises(ConfigError, match="P2PZ_TOKEN"):
        prepare(config)
    monkeypatch.setenv("P2PZ_TOKEN", "secret")
    client = client_of(Slow(), config)
    for header, status in ((None, 401), ("Bearer wrong", 401), ("secret", 401), ("Bearer secret", 200)):
        headers = {} if header is None else {"authorization": header}
        found = client.get("/v1/edits", headers=headers)
        assert found.status_code == status
        if status == 401:
            assert found.headers["www-authenticate"] == "Bearer"
            assert found.json()["error"]["type"] == "authentication_error"
    assert client.get("/healthz").status_code == 200
    assert "secret" not in repr(prepare(config))


def test_too_many_are_told_to_come_back(tiny_model: Path, cat: np.ndarray) -> None:
    full = client_of(Slow(busy("Too many.")), config_for(tiny_model))
    refused = asked(full, cat, ["cat2dog"])
    assert (refused.status_code, int(refused.headers["retry-after"])) == (503, 2)
    assert events_of(asked(full, cat, ["cat2dog"], stream=True).text)[-1][0] == "error"
    slow = Slow()
    with client_of(slow, config_for(tiny_model, limits={"per_client": 1})) as one:
        first = threading.Thread(target=asked, args=(one, cat, ["cat2dog"]))
        first.start()
        slow.begun.acquire()
        refused = asked(one, cat, ["cat2dog"])
        slow.let_go.set()
        first.join()
        assert (refused.status_code, int(refused.headers["retry-after"])) == (429, 1)
        assert asked(one, cat, ["cat2dog"]).status_code == 200


def test_what_takes_too_long_is_ended(tiny_model: Path, cat: np.ndarray) -> None:
    slow = Slow()
    with client_of(slow, config_for(tiny_model, limits={"timeout": 0.05})) as client:
        late = asked(client, cat, ["cat2dog"])
        slow.let_go.set()
    assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout_error")


def test_a_fault_of_ours_is_a_sentence_too(tiny_model: Path, cat: np.ndarray) -> None:
    broken = asked(client_of(Slow(ValueError("secret detail")), config_for(tiny_model)), cat, ["cat2dog"])
    assert (broken.status_code, broken.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in broken.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model=nothing/here/at/all"], "not a Stable Diffusion folder"),
        (["students=[nowhere]"], "isn't a student"),
        (["words.allowed=false", "model=x"], "nothing is offered"),
        (["inversion.cache=x"], "inversion.cache"),
        (
            ["edits.a.source=cat", "edits.a.target=dog", "edits.a.sentences.endpoint={base_url: u, model: m}"],
            "p2pz dire",
        ),
        (["edits.a.direction=nowhere.safetensors"], "can't be read"),
        (["image.size=[60,64]"], "multiples"),
        (["port=0"], "port is 0"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_starts(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare(load(None, settings, ServeConfig))


def test_loopback_is_known() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9")] == [True] * 4
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"))


def test_the_miniature_offers_edits_of_its_own() -> None:
    config = ServeConfig()
    assert config.offered["cat2dog"] == EditConfig(source="cat", target="dog")
    assert prepare(config).scenes


# ------------------------------------------------------------------------------------------------------------ batches


def gathered(asked: list[tuple[str, int]], size: int, work: Any = None) -> tuple[list[Any], list[list[int]]]:
    """The answers to (kind, number), all asked at once while the engine is busy with another, and the batches made."""
    batches: list[list[int]] = []
    first = threading.Event()

    def answer(batch: list[Waiting[int, int]]) -> list[int]:
        if batch[0].request < 0:
            first.wait()
            return [0]
        batches.append([one.request for one in batch])
        return [work(one.request) if work else one.request for one in batch]

    async def run() -> list[Any]:
        gathering = Gathering(answer, size, 0.0)
        busy = asyncio.create_task(gathering.answer("first", -1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(gathering.answer(kind, number)) for kind, number in asked]
        while len(gathering) < len(asked):
            await asyncio.sleep(0)
        first.set()
        await busy
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run()), batches


def test_what_waits_is_taken_together_by_kind_the_oldest_first() -> None:
    answers, batches = gathered([("a", 1), ("b", 2), ("a", 3), ("a", 4), ("b", 5)], size=2)
    assert answers == [1, 2, 3, 4, 5]
    assert batches == [[1, 3], [2, 5], [4]]


def test_one_that_fails_spares_its_neighbours() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    answers, _ = gathered([("a", n) for n in range(1, 5)], 4, work)
    assert [answers[0], answers[1], answers[3]] == [1, 2, 4]
    assert str(answers[2]) == "three"


def test_an_idle_engine_waits_for_more_but_not_for_a_full_batch() -> None:
    sizes: list[int] = []

    def work(batch: list[Waiting[int, int]]) -> list[int]:
        sizes.append(len(batch))
        return [one.request for one in batch]

    async def run() -> None:
        gathering = Gathering(work, 3, 60.0)
        await asyncio.gather(*(gathering.answer("a", n) for n in range(3)))
        await Gathering(work, 3, 0.01).answer("a", 1)

    asyncio.run(run())
    assert sizes == [3, 1]


def test_clients_that_go_away_stop_the_steps(service: Service, cat: np.ndarray) -> None:
    steps: list[int] = []
    editor = service.editor
    assert isinstance(editor, ServedEditor)

    async def run() -> None:
        engine = ServedEditor(service.offer.config)
        engine.metrics.steps.inc = lambda count: steps.append(count)  # type: ignore[method-assign]
        body = {"image": base64_of(encode(cat)), "edits": ["cat2dog"], "steps": 50, "stream": True}
        from p2pz_ray.serving.web.body import EditRequest
        from p2pz_ray.serving.web.request import parse_body

        watching = engine.watch(parse_body(EditRequest.model_validate(body), service.offer).tasks[0])
        async for told in watching:
            assert isinstance(told, Progress)
            break
        await watching.aclose()
        # The engine is free again: it answers the next.
        body["steps"] = STEPS
        await engine.edit(parse_body(EditRequest.model_validate(body), service.offer).tasks[0])

    asyncio.run(run())
    assert 2 * STEPS < len(steps) < 100
