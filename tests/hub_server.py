"""A Hugging Face hub on loopback, as much of it as its own client asks for to download a model."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Serves folders as repositories, each with one commit on main.

    repositories: owner/name → folder. gated: those that nobody may read. fetched: how often each file was sent whole
    or in part. ill: every so many answers is a 503 or a 429 in its place; 0 is none. commits: those that aren't a hash
    of the name.
    """

    def __init__(
        self,
        repositories: dict[str, Path],
        gated: tuple[str, ...] = (),
        ill: int = 0,
        commits: dict[str, str] | None = None,
    ) -> None:
        self.commits = commits or {}
        self.repositories, self.gated, self.ill = repositories, gated, ill
        self.fetched: Counter[str] = Counter()
        self.answers = 0
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str) -> str:
        return self.commits.get(name) or hashlib.sha1(name.encode()).hexdigest()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        with self._lock:
            self.answers += 1
            turn = self.answers
        if self.ill and turn % self.ill == 0:
            return _send(request, 503 if turn % (2 * self.ill) else 429, b"", body, {"Retry-After": "0"})
        path, query = unquote(urlsplit(request.path).path), parse_qs(urlsplit(request.path).query)
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, rest = ("/".join(parts[2:4]), parts[4:]) if api else ("/".join(parts[:2]), parts[2:])
        if owner not in self.repositories:
            return _send(request, 401, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        if owner in self.gated:
            said = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
            return _send(request, 403, b"{}", body, said)
        commit, folder = self.commit(owner), self.repositories[owner]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", commit):
            return _send(request, 404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        if api:
            return _send(request, 200, json.dumps(self._described(owner, rest, query)).encode(), body)
        file = folder / "/".join(rest[2:])
        if not file.is_file():
            return _send(request, 404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = file.read_bytes()
        said = {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if body:
            with self._lock:
                self.fetched["/".join([owner, *rest[2:]])] += 1
        start = _start(request.headers.get("Range"))
        if start:
            said["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        _send(request, 206 if start else 200, data[start:], body, said)

    def _described(self, owner: str, rest: list[str], query: dict[str, list[str]]) -> Any:
        folder = self.repositories[owner]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = {file: file.relative_to(folder).as_posix() for file in files}
        if rest[:1] == ["tree"]:
            return [
                {"type": "file", "path": names[f], "size": f.stat().st_size, "oid": _digest(f.read_bytes())}
                for f in files
            ]
        siblings = [{"rfilename": name} for name in names.values()]
        return {"id": owner, "modelId": owner, "sha": self.commit(owner), "private": False, "siblings": siblings}


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _start(ranged: str | None) -> int:
    return int(ranged.removeprefix("bytes=").split("-")[0]) if ranged else 0


def _send(request: Any, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
        request.send_header(key, value)
    request.end_headers()
    if body:
        request.wfile.write(data)
