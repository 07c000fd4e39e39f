"""How a service holds under load: latencies, throughput and batch fill, beside the same engine without a service.

    python jobs/load.py [KEY=VALUE …] [--clients 32] [--seconds 60]      starts `p2pz serve KEY=VALUE …` for the time
    python jobs/load.py --url http://127.0.0.1:8000                      a service that runs on this machine already

Each client sends one picture after the other; the answers are counted by their status. Only a loopback address is
taken, and no more than 256 clients for 600 seconds.
"""

import argparse
import base64
import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from p2pz_ray.config import load
from p2pz_ray.config.serve import ServeConfig, is_loopback
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.picture.codec import DecodePolicy, decode, encode

PICTURES = 16
MOST_CLIENTS, MOST_SECONDS = 256, 600


@dataclass
class Found:
    """What the clients of one model saw: the seconds of each good answer, its batch, and the statuses of all."""

    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    spent: float = 0.0

    def rate(self) -> float:
        return len(self.seconds) / self.spent

    def fill(self, size: int) -> float:
        """Of the places of all batches, those taken: a picture in a batch of b is a b-th of one."""
        return len(self.batches) / (size * sum(1 / batch for batch in self.batches))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--url", help="of a service that runs already")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--edit", default=None, help="default: the first that a model makes")
    given = parser.parse_args(arguments)
    if not (0 < given.clients <= MOST_CLIENTS and 0 < given.seconds <= MOST_SECONDS):
        parser.error(f"at most {MOST_CLIENTS} clients and {MOST_SECONDS} seconds")
    try:
        if given.url is not None:
            if not is_loopback(urlsplit(given.url).hostname or ""):
                raise ConfigError(f"--url {given.url} is not of this machine: load is put on loopback alone.")
            measure(given.url, given, None)
            return 0
        config = load(None, given.settings, ServeConfig)
        from p2pz_ray.serving.run import serving

        with serving(config) as url:
            measure(url, given, config)
        return 0
    except P2PZError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1


def measure(url: str, given: argparse.Namespace, config: ServeConfig | None) -> None:
    """Print a line for each model of a service; with its configuration, also what its engine does without it."""
    wait_until_well(url)
    models = asked(url, "GET", "/v1/models")[1]["data"]
    edits = asked(url, "GET", "/v1/edits")[1]["data"]
    columns = f"{'model':<10}{'images/s':>10}{'p50 s':>9}{'p90 s':>9}{'p99 s':>9}{'fill':>8}  answers"
    print(columns + ("   of the engine alone" if config else ""), flush=True)
    for model in models:
        edit = given.edit or next(edit["name"] for edit in edits if model["id"] in edit["models"])
        send(url, model["id"], edit, 1, 0.0)  # what is made ready once
        found = send(url, model["id"], edit, given.clients, given.seconds)
        if not found.seconds:
            print(f"{model['id']:<10}{'none':>10}  {dict(found.statuses)}")
            continue
        cuts = statistics.quantiles(found.seconds, n=100) if len(found.seconds) > 1 else found.seconds * 99
        numbers = f"{found.rate():>10.2f}{cuts[49]:>9.3f}{cuts[89]:>9.3f}{cuts[98]:>9.3f}"
        print(
            f"{model['id']:<10}{numbers}{found.fill(model['batch']):>8.0%}  {dict(found.statuses)}",
            end="" if config else "\n",
            flush=True,
        )
        if config is not None:
            alone = bulk(config, model["kind"], edit, model["batch"])
            print(f"   {found.rate() / alone:.0%} of {alone:.2f}", flush=True)


def send(url: str, model: str, edit: str, clients: int, seconds: float) -> Found:
    """Have clients send pictures, at least one each, until the time is over."""
    bodies = [
        json.dumps({"image": base64.b64encode(data).decode(), "edits": [edit], "model": model}) for data in pictures()
    ]
    found, lock, began = Found(), threading.Lock(), time.perf_counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=MOST_SECONDS)
        while True:
            started = time.perf_counter()
            connection.request("POST", "/v1/edits", bodies[number % PICTURES], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told, now = answer.read(), time.perf_counter()
            with lock:
                found.statuses[answer.status] += 1
                if answer.status == 200:
                    found.seconds.append(now - started)
                    found.batches.append(json.loads(told)["cost"]["batch"])
            if now - began >= seconds:
                return

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    found.spent = time.perf_counter() - began
    return found


def bulk(config: ServeConfig, kind: str, edit: str, size: int) -> float:
    """Images a second of the engine itself, in batches of `size`, from encoded to encoded pictures."""
    from p2pz_ray.serving.engines import ServedEditor, ServedStudents
    from p2pz_ray.serving.gathering import Waiting
    from p2pz_ray.serving.prepare import prepare
    from p2pz_ray.serving.task import Kind, Part, Task

    offer = prepare(config)
    engine: Any = ServedEditor(offer.config) if kind == "diffusion" else ServedStudents(offer.config)
    side = offer.size if kind == "diffusion" else (offer.students[edit].side,) * 2
    if kind == "diffusion":
        engine.direction(edit)
    data, done, began = pictures(), -size, time.perf_counter()
    while done < size or time.perf_counter() - began < 10:
        if done == 0:  # the first batch made all ready
            began = time.perf_counter()
        chosen = [data[k % PICTURES] for k in range(size)]
        tasks = [Task(Kind(((Part(edit),),)), decode(one, DecodePolicy(side)), None, "a photo", 0) for one in chosen]
        answers = engine.work([Waiting(None, task, None) for task in tasks])
        for answer in answers:
            encode(answer.pixels[0])
        done += size
    return done / (time.perf_counter() - began)


def pictures() -> list[bytes]:
    from p2pz_ray.serving.web.scenes import scene

    return [encode(scene("cat", seed, 64)[0]) for seed in range(PICTURES)]


def wait_until_well(url: str) -> None:
    """Raises P2PZError where nothing answers."""
    try:
        status, _ = asked(url, "GET", "/healthz")
    except OSError as error:
        raise P2PZError(f"Nothing answers at {url} ({error}): start p2pz serve, or name its --url.") from error
    if status != 200:
        raise P2PZError(f"The service at {url} is not well: it answers {status}.")


def asked(url: str, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


if __name__ == "__main__":
    sys.exit(main())
