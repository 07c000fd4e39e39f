"""Every order of several actors' storage calls, one after another, without threads and without luck.

An actor is a function over a run's folder. It is run anew with the answers that it has had so far until it asks for
one that it hasn't had: that is its next call. So a state of the world is the files and the answers that each actor has
had; all states that can be reached are looked at, and orders are counted along the way.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.errors import P2PZError

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


@dataclass(frozen=True, eq=False)
class Actor:
    """name: what it calls its attempts. act: what it does to a run's folder."""

    name: str
    act: Callable[[RunFolder], Any]
    _known: dict[str, tuple[Call | None, Any]] = field(default_factory=dict)

    def after(self, answers: tuple[Answer, ...]) -> tuple[Call | None, Any]:
        """Its next call, or None and what it ended with."""
        key = repr(answers)
        if key not in self._known:
            self._known[key] = self._replayed(answers)
        return self._known[key]

    def alone(self, files: Files, create_only: bool = True) -> tuple[Files, Any]:
        """The files when it has done all that it does, and what it ended with."""
        answers: tuple[Answer, ...] = ()
        while True:
            call, result = self.after(answers)
            if call is None:
                return files, result
            files, answer = answered(files, call, create_only)
            answers = (*answers, answer)

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


class BrokenPromiseError(Exception):
    """Something that the protocol promises doesn't hold."""


def check(condition: bool, what: str) -> None:
    if not condition:
        raise BrokenPromiseError(what)


def nothing(*_: Any) -> None:
    """No promise."""


@dataclass(frozen=True)
class Promises:
    """What is checked of the files, each raising BrokenPromiseError.

    always: of any state. step: of any two that follow one another. at_the_end: where all actors have ended, with what
    each ended with. gone_on_with: of any state in which all actors may be killed.
    """

    always: Callable[[Files], None] = nothing
    step: Callable[[Files, Files], None] = nothing
    at_the_end: Callable[[Files, list[Any]], None] = nothing
    gone_on_with: Callable[[Files], None] = nothing


def explore(
    actors: Sequence[Actor], promises: Promises, create_only: bool = True, files: Files | None = None
) -> tuple[int, int]:
    """Look at every state that any order of the actors' calls reaches from these files on; returns orders and states.
    Raises BrokenPromiseError."""
    seen: dict[str, int] = {}  # state → orders from here to an end
    looked: set[str] = set()  # files, whatever the actors know of them

    def orders(files: Files, answers: tuple[tuple[Answer, ...], ...]) -> int:
        wreck = repr(sorted(files.items()))
        key = f"{wreck} {answers!r}"
        if key in seen:
            return seen[key]
        if wreck not in looked:
            looked.add(wreck)
            promises.always(files)
            promises.gone_on_with(files)
        count, ended = 0, []
        for number, actor in enumerate(actors):
            call, result = actor.after(answers[number])
            if call is None:
                ended.append(result)
                continue
            after, answer = answered(files, call, create_only)
            promises.step(files, after)
            count += orders(after, (*answers[:number], (*answers[number], answer), *answers[number + 1 :]))
        if len(ended) == len(actors):
            promises.at_the_end(files, ended)
            count = 1
        seen[key] = count
        return count

    return orders(files or {}, ((),) * len(actors)), len(seen)
