"""The commit protocol under every order of its storage calls, one after another, without threads and without luck.

An actor is a function over a run's folder. It is run anew with the answers that it has had so far until it asks for
one that it hasn't had: that is its next call. So a state of the world is the files and the answers that each actor has
had; all states that can be reached are looked at, and orders are counted along the way.
"""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.errors import P2PZError

PARTITION = Partition.of("files", [Source("a.png", "1-1")])
PLAN = Plan((PARTITION,))
MANIFEST = f"/run/manifest/{PARTITION.id}.json"

Files = dict[str, bytes]
Call = tuple[Any, ...]
Answer = tuple[str, Any]


class Asked(BaseException):
    """An actor wants a call that it has had no answer to."""

    def __init__(self, call: Call) -> None:
        self.call = call


class Replayed:
    """A storage that repeats the answers that an actor has had."""

    protocol = "memory"

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.answers = iter(answers)

    def _ask(self, *call: Any) -> Any:
        kind, value = next(self.answers, (None, None))
        if kind is None:
            raise Asked(call)
        if kind == "raises":
            raise value("no")
        return value

    def invalidate_cache(self) -> None:
        return

    def info(self, path: str) -> Any:
        return self._ask("info", path)

    def ls(self, path: str, detail: bool) -> Any:
        return self._ask("ls", path)

    def cat_file(self, path: str) -> Any:
        return self._ask("cat", path)

    def pipe_file(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        self._ask("put", path, data, mode)

    def rm_file(self, path: str) -> None:
        self._ask("rm", path)


def answered(files: Files, call: Call, create_only: bool) -> tuple[Files, Answer]:
    """The files after a call, which happens at once as a whole, and what the storage says to it."""
    kind, path, *rest = call
    if kind == "ls":
        below = sorted(name for name in files if name.startswith(f"{path}/"))
        infos = [{"name": name, "type": "file", "size": 1} for name in below if "/" not in name[len(path) + 1 :]]
        return files, ("gives", infos) if infos else ("raises", FileNotFoundError)
    if kind == "put":
        data, mode = rest
        if mode == "create" and create_only and path in files:
            return files, ("raises", FileExistsError)
        return {**files, path: data}, ("gives", None)
    if path not in files:
        return files, ("raises", FileNotFoundError)
    if kind == "rm":
        return {name: data for name, data in files.items() if name != path}, ("gives", None)
    return files, ("gives", files[path] if kind == "cat" else {"type": "file", "size": len(files[path])})


_KNOWN: dict[tuple[str, str], tuple[Call | None, Any]] = {}


@dataclass(frozen=True)
class Actor:
    """name: what it calls its attempts. act: what it does to a run's folder."""

    name: str
    act: Callable[[RunFolder], Any]

    def after(self, answers: tuple[Answer, ...]) -> tuple[Call | None, Any]:
        """Its next call, or None and what it ended with."""
        key = (self.name, repr(answers))
        if key not in _KNOWN:
            _KNOWN[key] = self._replayed(answers)
        return _KNOWN[key]

    def _replayed(self, answers: tuple[Answer, ...]) -> tuple[Call | None, Any]:
        folder = RunFolder("memory://run")
        folder.store.fs = Replayed(answers)
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=self.name.encode().ljust(16, b".")))
                patched.setattr(time, "time", lambda: 1.0)
                return None, self.act(folder)
        except Asked as asked:
            return asked.call, None
        except P2PZError as error:
            return None, error


def writer(name: str, fingerprint: str = "f") -> Actor:
    """Commits the one partition."""

    def act(folder: RunFolder) -> Manifest:
        data = f"pairs of {name}".encode()
        return folder.commit(PARTITION.id, data, images=1, rows=1, failed=0, fingerprint=fingerprint, started=0.0)

    return Actor(name, act)


def finisher(name: str = "finisher") -> Actor:
    return Actor(name, lambda folder: folder.finish(PLAN, {"by": name}))


class BrokenPromiseError(Exception):
    """Something that the protocol promises doesn't hold."""


def check(condition: bool, what: str) -> None:
    if not condition:
        raise BrokenPromiseError(what)


def explore(actors: list[Actor], create_only: bool = True) -> tuple[int, int]:
    """Look at every state that any order of the actors' calls reaches; returns orders and states.

    Raises BrokenPromiseError: for any state, the end of any order, or what is left where all actors were killed in any
    state and the run was gone on with.
    """
    seen: dict[Any, int] = {}  # state → orders from here to an end
    left: set[Any] = set()  # files with which the run was gone on with

    def orders(files: Files, answers: tuple[tuple[Answer, ...], ...]) -> int:
        key = repr((sorted(files.items()), answers))
        if key in seen:
            return seen[key]
        always(files)
        if (wreck := tuple(sorted(files.items()))) not in left:
            left.add(wreck)
            gone_on_with(files, create_only)
        count, ended = 0, []
        for number, actor in enumerate(actors):
            call, result = actor.after(answers[number])
            if call is None:
                ended.append(result)
                continue
            after, answer = answered(files, call, create_only)
            check(files.get(MANIFEST) in (None, after.get(MANIFEST)), "a manifest that stood was changed or removed")
            more = (*answers[:number], (*answers[number], answer), *answers[number + 1 :])
            count += orders(after, more)
        if len(ended) == len(actors):
            at_the_end(files, ended)
            count = 1
        seen[key] = count
        return count

    return orders({}, ((),) * len(actors)), len(seen)


def always(files: Files) -> None:
    """What holds at any moment: a committed partition's rows are there, whole and under their own fingerprint."""
    if MANIFEST in files:
        manifest = Manifest(**json.loads(files[MANIFEST]))
        maker = uuid_name(manifest.attempt)
        check(files.get(f"/run/{manifest.file}") == f"pairs of {maker}".encode(), "a committed partition was lost")
    else:
        check("/run/_SUCCESS" not in files, "a run was finished without its partition")


def at_the_end(files: Files, results: list[Any]) -> None:
    """What holds when all actors have ended: one partition stands once, and all that committed it say the same."""
    data = [name for name in files if name.startswith("/run/data/")]
    check(MANIFEST in files, "nothing was committed")
    standing = Manifest(**json.loads(files[MANIFEST]))
    check(data == [f"/run/{standing.file}"], f"data/ holds {len(data)} files of one partition")
    for result in results:
        check(not isinstance(result, Manifest) or result == standing, "a writer was told of another manifest")


def gone_on_with(files: Files, create_only: bool) -> None:
    """All are killed: whoever goes on has a finished run, and nothing of theirs stays."""
    for actor in (writer("next"), finisher("last")):
        answers: tuple[Answer, ...] = ()
        while True:
            call, result = actor.after(answers)
            if call is None:
                check(not isinstance(result, P2PZError), f"a run could not be gone on with: {result}")
                break
            files, answer = answered(files, call, create_only)
            answers = (*answers, answer)
    at_the_end(files, [])
    check("/run/_SUCCESS" in files, "the run was not finished")


def uuid_name(attempt: str) -> str:
    return bytes.fromhex(attempt).rstrip(b".").decode()


def test_no_order_of_two_writers_a_stragglers_copy_and_a_finisher_loses_or_doubles_a_partition() -> None:
    orders, states = explore([writer("a"), writer("b"), writer("copy"), finisher()])
    print(f"{orders:,} orders through {states:,} states")
    assert orders > 10**9


def test_without_create_only_puts_the_same_orders_lose_a_partition() -> None:
    with pytest.raises(BrokenPromiseError):
        explore([writer("a"), writer("b"), finisher()], create_only=False)


def test_in_no_order_is_a_partition_of_another_job_finished_under_this_ones_name() -> None:
    first = writer("a")

    def own(folder: RunFolder) -> None:
        manifests = folder.manifests(PLAN.ids, "f")
        if manifests:
            folder.finish(PLAN, {})

    def mixed(files: Files) -> bool:
        return "/run/_SUCCESS" in files and json.loads(files[MANIFEST])["fingerprint"] != "f"

    seen: set[str] = set()

    def walk(files: Files, answers: tuple[tuple[Answer, ...], ...]) -> None:
        if (key := repr((sorted(files.items()), answers))) in seen:
            return
        seen.add(key)
        check(not mixed(files), "a foreign partition was finished")
        for number, actor in enumerate(actors):
            call, result = actor.after(answers[number])
            if call is not None:
                after, answer = answered(files, call, True)
                walk(after, (*answers[:number], (*answers[number], answer), *answers[number + 1 :]))
            elif isinstance(result, Manifest):
                assert result.fingerprint == ("other" if actor.name == "x" else "f")

    actors = [first, writer("x", "other"), Actor("own", own)]
    walk({}, ((),) * 3)
    assert len(seen) > 100
