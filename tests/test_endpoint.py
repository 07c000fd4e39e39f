"""Sentences from an OpenAI-compatible endpoint: a real HTTP server on loopback that answers, fails, stalls
and lies."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.language import endpoint as endpoint_module
from p2pz_ray.language.endpoint import Endpoint
from p2pz_ray.language.sentences import sentences

KEY = "sk-very-secret-key"


class Server:
    """A chat endpoint on loopback that gives one scripted answer a request, the last one for ever."""

    def __init__(self, *answers: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requests.append((self.path, dict(self.headers), body))
                answers[min(len(owner.requests), len(answers)) - 1](self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


def status(code: int, body: bytes = b"{}", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def says(text: str | None) -> Callable[[BaseHTTPRequestHandler], None]:
    return status(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")

    def start(*answers: Callable[[BaseHTTPRequestHandler], None]) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def client(server: Server, **settings: Any) -> Endpoint:
    settings = {"api_key_env": "TEST_KEY", "retries": 2, "backoff": 0.01, "timeout": 10.0} | settings
    return Endpoint(base_url=server.url, model="some-model", **settings)


def failure(source: Any, kind: type[P2PZError], count: int = 2) -> str:
    with pytest.raises(kind) as caught:
        sentences(source, "cat", count)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert KEY not in message
    return message


def test_an_endpoint_is_asked_until_there_are_enough_different_good_sentences(serve: Callable[..., Server]) -> None:
    server = serve(
        says('Here you go:\n1. "A cat sleeps in the sun."\n2) The dog barks at him.\n- a CAT sleeps in the sun.\n'),
        says(None),
        says("* We saw a cat.\n• The old cat waits.\n"),
    )
    found = sentences(client(server), "cat", 3)
    assert found == ["A cat sleeps in the sun.", "We saw a cat.", "The old cat waits."]
    path, headers, body = server.requests[0]
    assert len(server.requests) == 3
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "some-model"
    assert '"cat"' in body["messages"][0]["content"]


def test_without_a_key_variable_no_key_is_sent(serve: Callable[..., Server]) -> None:
    server = serve(says("A cat sleeps here."))
    assert sentences(client(server, api_key_env=None), "cat", 1) == ["A cat sleeps here."]
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize("fault", [status(429), status(500), status(503), hangs_up])
def test_a_passing_failure_is_tried_again(serve: Callable[..., Server], fault: Any) -> None:
    server = serve(fault, fault, says("A cat sleeps here."))
    assert sentences(client(server), "cat", 1) == ["A cat sleeps here."]
    assert len(server.requests) == 3


def test_an_answer_cut_short_is_tried_again(serve: Callable[..., Server]) -> None:
    server = serve(status(200, b'{"choices": [', Content_Length="999"), says("A cat sleeps here."))
    assert sentences(client(server, timeout=2.0), "cat", 1) == ["A cat sleeps here."]


def test_waits_grow_and_heed_the_server(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint_module.time, "sleep", waits.append)
    server = serve(status(503), status(503), status(429, Retry_After="7"), status(429, Retry_After="9999"), status(500))
    message = failure(client(server, retries=4, backoff=1.0), P2PZError)
    assert "failed 5 times" in message
    assert "500" in message
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert waits[2:] == [7.0, 60.0]


def test_a_silent_server_is_given_up_after_the_timeout(serve: Callable[..., Server]) -> None:
    release = threading.Event()
    server = serve(lambda handler: release.wait(30))  # type: ignore[arg-type, return-value]
    try:
        assert "failed 2 times" in failure(client(server, retries=1, timeout=0.2), P2PZError)
    finally:
        release.set()


def test_a_dripping_server_is_given_up_after_the_timeout(serve: Callable[..., Server]) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b" ")
                threading.Event().wait(0.05)
        except OSError:
            pass

    assert "did not end in time" in failure(client(serve(drip), retries=0, timeout=0.4), P2PZError)


def test_nobody_listening_is_one_sentence(serve: Callable[..., Server]) -> None:
    server = serve(says(""))
    server.http.server_close()
    server.http.shutdown()
    assert "failed 3 times" in failure(client(server), P2PZError)


@pytest.mark.parametrize(
    ("code", "parts"),
    [(401, ["refuses the API key", "TEST_KEY"]), (404, ["some-model", "base_url"]), (302, ["redirects"])],
)
def test_a_refused_request_is_not_tried_again_and_says_what_to_set(
    serve: Callable[..., Server], code: int, parts: list[str]
) -> None:
    elsewhere = serve(says("A cat sleeps here."))
    server = serve(status(code, f'{{"error": "Incorrect API key: {KEY}"}}'.encode(), Location=elsewhere.url))
    message = failure(client(server), ConfigError)
    assert all(part in message for part in [server.url, *parts])
    assert len(server.requests) == 1
    assert elsewhere.requests == []


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'])
def test_an_answer_of_another_kind_is_refused(serve: Callable[..., Server], body: bytes) -> None:
    assert "not a chat completion" in failure(client(serve(status(200, body))), P2PZError)


def test_an_endpoint_that_never_writes_the_word_is_given_up_after_the_stated_requests(
    serve: Callable[..., Server],
) -> None:
    server = serve(says("The dog barks at him.\nNo more of that."))
    message = failure(client(server, max_requests=4), P2PZError)
    assert "wrote 8 lines but only 0 of the 2" in message
    assert len(server.requests) == 4


def test_a_missing_or_malformed_key_is_refused_before_any_request(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(says("A cat sleeps here."))
    monkeypatch.delenv("TEST_KEY")
    assert "TEST_KEY is not set" in failure(client(server), ConfigError)
    monkeypatch.setenv("TEST_KEY", f"{KEY}\r\nX-Other: 1")
    assert "TEST_KEY holds" in failure(client(server), ConfigError)
    assert server.requests == []


@pytest.mark.parametrize("url", ["host/v1", "ftp://host/v1", "http://user:word@host/v1", "file:///etc/passwd", ""])
def test_a_base_url_that_is_no_plain_http_url_is_refused(url: str) -> None:
    assert "base_url" in failure(Endpoint(base_url=url, model="m", api_key_env=None), ConfigError)


def test_the_key_is_never_logged_nor_shown(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    source = client(serve(status(500), status(401, KEY.encode())))
    failure(source, ConfigError)
    out, err = capfd.readouterr()
    assert KEY not in caplog.text + out + err + repr(source)
