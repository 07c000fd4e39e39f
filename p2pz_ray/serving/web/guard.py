"""The checks before every route: who may call, how large and how many requests may be, and the id in the logs."""

import hmac
import re
import secrets
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pz_ray.running.log import LOG
from p2pz_ray.serving.metrics import IngressMetrics
from p2pz_ray.serving.offer import Offer, token_hash
from p2pz_ray.serving.web.refusal import RefusalError

OPEN = {"/", "/docs", "/favicon.ico"}
"""Paths that need no token: they show nobody's pictures."""
OWN = {"localhost", "127.0.0.1", "[::1]"}
COUNTED = {"/", "/docs", "/mcp", "/v1/edits", "/v1/images/edits", "/v1/models", "/v1/directions", "/v1/scene"}
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Refuses unknown Hosts and Origins (another site must not use this service through a visitor's browser), wrong
    tokens, bodies that are too large, and clients with too many concurrent requests. It logs and counts every request,
    under the id that Serve returns as X-Request-Id.
    """

    def __init__(self, app: ASGIApp, offer: Offer) -> None:
        self.app, self.offer = app, offer
        self.names = OWN | {offer.config.host, *offer.config.hosts}
        self.metrics = IngressMetrics()
        self.under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        id, path, started, status = _id(headers), _path(scope), time.perf_counter(), 0
        began = False

        async def answer(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
                present = {key.lower() for key, _ in message["headers"]}
                added = [header for header in HEADERS if header[0] not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        client = scope["client"][0] if scope.get("client") else ""
        self.under_way[client] += 1
        try:
            self._check(headers, path, client)
            body = await _body(receive, headers, self.offer.config.limits.body)
            await self.app(scope, _replayed(body, receive), answer)
        except RefusalError as refusal:
            if not began:
                await refusal.response()(scope, receive, answer)
        except Exception:
            LOG.exception("request failed", extra={"p2pz": {"request": id, "path": path}})
            if began:
                raise
            failure = RefusalError(500, f"Something went wrong here; the logs have it under {id}.", code="internal")
            await failure.response()(scope, receive, answer)
        finally:
            self.under_way[client] -= 1
            if not self.under_way[client]:
                del self.under_way[client]
            seconds = time.perf_counter() - started
            self.metrics.answered(path if path in COUNTED else "other", status, seconds)
            if path != "/healthz":
                facts: dict[str, Any] = {"request": id, "path": path, "status": status, "seconds": round(seconds, 3)}
                LOG.info("request", extra={"p2pz": facts})

    def _check(self, headers: dict[str, str], path: str, client: str) -> None:
        """Raise RefusalError for a request that may not be answered."""
        if path == "/healthz":
            return
        host = headers.get("host", "")
        name = re.sub(r":\d+$", "", host).lower()
        if "*" not in self.names and name not in self.names:
            raise RefusalError(
                403, f"The service is not called {name[:80]!r}: add that name to hosts to allow it.", "Host", "host"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise RefusalError(403, f"Pages of {origin[:80]!r} may not call this service.", "Origin", "origin")
        if self.offer.token is not None and path not in OPEN:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token_hash(token.strip()), self.offer.token):
                raise RefusalError(
                    401, "The token is missing or wrong: send 'Authorization: Bearer TOKEN'.", code="invalid_api_key"
                )
        most = self.offer.config.limits.per_client
        if most is not None and self.under_way[client] > most:
            raise RefusalError(
                429, f"You have more than {most} requests under way: wait for some.", code="rate_limit",
                retry_after=1,
            )  # fmt: skip


def _id(headers: dict[str, str]) -> str:
    id = headers.get("x-request-id", "")  # the client's own or, where it sent none, Serve's
    return id if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", id) else secrets.token_hex(8)


def _path(scope: Scope) -> str:
    """The path below the one that the service is mounted at."""
    root, path = scope.get("root_path", ""), scope["path"]
    return path.removeprefix(root) or "/" if root else path


async def _body(receive: Receive, headers: dict[str, str], most: int) -> bytes:
    """The whole body. Raises RefusalError where it has more than `most` bytes."""
    refusal = RefusalError(413, f"The request has more than {most:,} bytes, which is the limit.", code="too_large")
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) > most:
        raise refusal
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)  # the client is gone; the next receive says so
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise refusal
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
