"""A proxy before an S3 server that lets a share of the requests go wrong, as real object stores do."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from s3_server import s3_server

KINDS = ("500", "503", "slow down", "cut before", "cut after", "truncated", "late")
LATE = 3.0
"""Seconds of a late answer: more than the client's patience."""


class Faults:
    """Which requests go wrong: a `share` of them, each in one of `KINDS` ways, by a seed."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.random, self.lock = share, random.Random(seed), threading.Lock()
        self.met: Counter[str] = Counter()

    def draw(self) -> str:
        with self.lock:
            kind = self.random.choice(KINDS) if self.random.random() < self.share else "fine"
            self.met[kind] += 1
            return kind


@contextmanager
def faulty_s3(share: float, seed: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any], Faults]]:
    """Storage options by way of the proxy, those of the server itself, and the faults met so far."""
    with s3_server() as direct:
        faults = Faults(share, seed)
        host = urlsplit(direct["endpoint_url"]).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kind = faults.draw()
                if kind in ("500", "503", "slow down"):
                    status = 500 if kind == "500" else 503
                    code = {"500": "InternalError", "503": "ServiceUnavailable", "slow down": "SlowDown"}[kind]
                    self.say(status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
                    return
                if kind == "late":
                    time.sleep(LATE)
                if kind in ("cut before", "late"):
                    self.close_connection = True
                    return
                behind = http.client.HTTPConnection(host, timeout=60)
                behind.request(self.command, self.path, body, dict(self.headers))
                found = behind.getresponse()
                content = found.read()
                behind.close()
                if kind == "cut after":  # it was done, and nobody is told
                    self.close_connection = True
                    return
                left_out = ("transfer-encoding", "connection", "content-length", "server", "date")
                headers = {name: value for name, value in found.getheaders() if name.lower() not in left_out}
                if self.command == "HEAD":
                    headers["Content-Length"] = found.getheader("Content-Length") or "0"
                self.say(found.status, headers, content, cut=kind == "truncated")

            def say(self, status: int, headers: dict[str, str], content: bytes, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut and content else content)
                if cut and content:
                    self.close_connection = True

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            impatient = {"connect_timeout": 2, "read_timeout": 2, "retries": {"max_attempts": 2}}
            through = direct | {
                "endpoint_url": f"http://127.0.0.1:{proxy.server_address[1]}",
                "config_kwargs": impatient,
            }
            yield through, direct, faults
        finally:
            proxy.shutdown()
            proxy.server_close()
