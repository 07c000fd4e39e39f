"""Sentences written by a language model behind an OpenAI-compatible HTTP endpoint."""

import email.message
import http.client
import json
import math
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.language.sentences import collect

_TRANSIENT = {408, 409, 429, 500, 502, 503, 504, 529}
_MAX_RESPONSE = 4 << 20  # bytes
_LONGEST_WAIT = 60.0  # seconds between two attempts


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would send the Authorization header to wherever it points."""

    def redirect_request(self, *_: object) -> None:
        return None


class _TransientError(Exception):
    """A failure after which another attempt may succeed."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Endpoint:
    """`POST {base_url}/chat/completions` of any server that speaks OpenAI's protocol.

    The key is read from the environment variable `api_key_env` (None: no key is sent) when it is needed,
    and never appears in a message, file or repr. After status 408, 409, 429 or 5xx, a refused connection or
    `timeout` seconds without a complete answer, a request is repeated up to `retries` times, after
    `backoff` · 2ⁿ seconds or as long as the server's Retry-After says. `max_requests` limits the requests
    for one word (None: three times as many as should be needed).
    """

    base_url: str
    model: str
    api_key_env: str | None = "OPENAI_API_KEY"
    sentences_per_request: int = 50
    max_requests: int | None = None
    temperature: float = 1.0
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0

    def sentences(self, word: str, count: int) -> list[str]:
        """`count` different sentences with `word`. ConfigError for a wrong URL, key or model, else P2PZError."""
        if not re.match(r"https?://[^/@?#\s]+(/[^@?#\s]*)?$", self.base_url):
            raise ConfigError(
                "base_url of the sentence endpoint is not of the form https://HOST/v1: give it without user, "
                "query or spaces."
            )
        limit = self.max_requests or 3 * math.ceil(count / self.sentences_per_request) + 3
        return collect(self._answers(word, limit), word, count, f"{self.model} at {self.base_url}")

    def _answers(self, word: str, limit: int) -> Iterator[str]:
        key = self._key()
        prompt = (
            f"Write {self.sentences_per_request} different short English sentences, such as caption an image. "
            f'Each must contain "{word}" exactly as written. Vary the scene, the adjectives, the verbs and where '
            f'in the sentence "{word}" stands. One sentence a line, no numbers, no other text.'
        )
        for _ in range(limit):
            yield self._ask(prompt, key)

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"The environment variable {self.api_key_env} is not set: put the API key of {self.base_url} into it."
            )
        # http.client would quote an invalid header, and so the key, in its own error.
        if not re.fullmatch(r"[!-~]+", key):
            raise ConfigError(
                f"The environment variable {self.api_key_env} holds spaces or other characters that no API key "
                "has: set it to the key alone."
            )
        return key

    def _ask(self, prompt: str, key: str | None) -> str:
        for attempt in range(self.retries + 1):
            try:
                return self._post(prompt, key)
            except _TransientError as failure:
                if attempt == self.retries:
                    raise P2PZError(
                        f"The sentence endpoint {self.base_url} failed {attempt + 1} times, last with {failure}: "
                        "try again later or check base_url."
                    ) from None
                wait = self.backoff * 2**attempt * random.uniform(0.5, 1.0)
                time.sleep(min(_LONGEST_WAIT, max(wait, failure.wait or 0.0)))
        raise AssertionError("unreachable")

    def _post(self, prompt: str, key: str | None) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
        }
        request = urllib.request.Request(
            f"{self.base_url.rstrip('/')}/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "p2pz_ray",
            },
        )
        if key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                return self._content(self._read(response))
        except urllib.error.HTTPError as error:
            self._refuse(error)
        except (OSError, http.client.HTTPException) as error:
            # URLError, a reset connection, a timeout, a partial answer: their texts never include a header.
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise _TransientError(f"{' '.join(str(reason).split())!r}") from None
        raise AssertionError("unreachable")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The whole body. With only a socket timeout, a server could send one byte per minute for ever."""
        deadline = time.monotonic() + self.timeout
        expected = response.length  # None where the server gives no Content-Length
        body = b""
        while expected is None or len(body) < expected:
            chunk = response.read1(1 << 16)
            if not chunk:
                break
            body += chunk
            if len(body) > _MAX_RESPONSE:
                raise P2PZError(f"The sentence endpoint {self.base_url} answers with over 4 MiB: check base_url.")
            if time.monotonic() > deadline:
                raise _TransientError("an answer that did not end in time")
        if expected is not None and len(body) < expected:
            raise _TransientError("an answer cut short")
        return body

    def _content(self, body: bytes) -> str:
        """The text of the answer; "" if the model declined to write any."""
        try:
            content = json.loads(body)["choices"][0]["message"].get("content")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            content = 0
        if content is not None and not isinstance(content, str):
            raise P2PZError(
                f"The answer of {self.base_url} is not a chat completion: check that base_url is an "
                "OpenAI-compatible endpoint."
            )
        return content or ""

    def _refuse(self, error: urllib.error.HTTPError) -> None:
        """Raise the error for an HTTP status. The server's own text isn't shown, since it may repeat the key."""
        status = f"HTTP status {error.code}"
        if error.code in _TRANSIENT or error.code >= 500:
            raise _TransientError(status, _retry_after(error.headers)) from None
        if error.code in (401, 403):
            name = self.api_key_env or "a variable that api_key_env names"
            raise ConfigError(
                f"The sentence endpoint {self.base_url} refuses the API key ({status}): put a valid one into {name}."
            ) from None
        if 300 <= error.code < 400:
            raise ConfigError(
                f"The sentence endpoint {self.base_url} redirects ({status}): set base_url to where it points."
            ) from None
        raise ConfigError(
            f"The sentence endpoint {self.base_url} refuses the request for model {self.model!r} ({status}): check "
            "base_url and model."
        ) from None


def _retry_after(headers: email.message.Message) -> float | None:
    """Seconds; None for a date, the header's other form."""
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None
