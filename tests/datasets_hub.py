"""A Hugging Face hub on this machine: one data set, read and written through the hub's own client."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


@contextmanager
def hub_server(
    files: dict[str, bytes], repository: str = "me/cats", commits: list[list[str]] | None = None
) -> Iterator[str]:
    """The address of a hub that serves `files` (which may change meanwhile) as the data set `repository`.

    commits: given the names in each commit that is sent, by whoever has the token "writes".
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/"
            if path.startswith(resolve):
                self.file(path.removeprefix(resolve).partition("/")[2])
            elif path.startswith(f"{api}/tree/"):
                self.json(self.tree(path.removeprefix(f"{api}/tree/").partition("/")[2], "recursive=" in self.path))
            elif path.startswith(api):
                self.json({"id": repository, "sha": COMMIT, "private": False, "tags": [], "siblings": []})
            else:
                self.send(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = urlsplit(self.path).path
            if (
                not ("/paths-info/" in path or path == "/api/validate-yaml")
                and self.headers["Authorization"] != "Bearer writes"
            ):
                self.send(401, b"{}", {"Content-Type": "application/json"})
            elif path == "/api/repos/create":
                self.json({"url": f"https://huggingface.co/datasets/{repository}", "id": repository})
            elif path == "/api/validate-yaml":
                self.json({"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                names = [one["path"] for one in json.loads(body)["files"]]
                self.json({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
            elif path.endswith("/commit/main"):
                self.commit([json.loads(line) for line in body.splitlines()])
            else:
                self.told(body)

        def commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
            sent = [line["value"] for line in lines if line["key"] == "file"]
            files.update({one["path"]: base64.b64decode(one["content"]) for one in sent})
            if commits is not None:
                commits.append([one["path"] for one in sent])
            address = f"https://huggingface.co/datasets/{repository}/commit/{COMMIT}"
            self.json({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})

        def told(self, body: bytes) -> None:
            try:
                wanted = json.loads(body)["paths"]
            except ValueError:
                wanted = [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part[:6] == "paths="]
            found = [entry for entry in self.tree("", True) if entry["path"] in wanted]
            self.json(found)

        def tree(self, folder: str, recursive: bool) -> list[dict[str, object]]:
            entries: dict[str, dict[str, object]] = {}
            for name, data in files.items():
                if folder and not name.startswith(f"{folder}/"):
                    continue
                parts = name.removeprefix(f"{folder}/" if folder else "").split("/")
                for depth in range(1, len(parts)):
                    path = "/".join([*([folder] if folder else []), *parts[:depth]])
                    if recursive or depth == 1:
                        entries[path] = {"type": "directory", "path": path, "oid": "d" * 40, "size": 0}
                if recursive or len(parts) == 1:
                    oid = hashlib.sha1(data).hexdigest()
                    entries[name] = {"type": "file", "path": name, "oid": oid, "size": len(data)}
            return list(entries.values())

        def file(self, name: str) -> None:
            if name not in files:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            data, code, more = files[name], 200, {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'}
            if "Range" in self.headers:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                stop = min(len(data), int(last) + 1) if last else len(data)
                code, more["Content-Range"] = 206, f"bytes {first}-{stop - 1}/{len(data)}"
                data = data[int(first) : stop]
            self.send(code, data, more | {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

        def json(self, value: object) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def send(self, code: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
