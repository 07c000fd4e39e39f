"""The commit protocol under every order of its storage calls."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from orders import Actor, BrokenPromiseError, Files, Promises, check, explore

from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.errors import P2PZError

PARTITION = Partition.of("files", [Source("a.png", "1-1")])
PLAN = Plan((PARTITION,))
MANIFEST = f"/run/manifest/{PARTITION.id}.json"


def writer(name: str, fingerprint: str = "f") -> Actor:
    """Commits the one partition."""

    def act(folder: RunFolder) -> Manifest:
        data = f"pairs of {name}".encode()
        return folder.commit(PARTITION.id, data, images=1, rows=1, failed=0, fingerprint=fingerprint, started=0.0)

    return Actor(name, act)


def finisher(name: str = "finisher") -> Actor:
    return Actor(name, lambda folder: folder.finish(PLAN, {"by": name}))


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


def gone_on_with(files: Files, create_only: bool = True) -> None:
    """All are killed: whoever goes on has a finished run, and nothing of theirs stays."""
    for actor in (NEXT, LAST):
        files, result = actor.alone(files, create_only)
        check(not isinstance(result, P2PZError), f"a run could not be gone on with: {result}")
    at_the_end(files, [])
    check("/run/_SUCCESS" in files, "the run was not finished")


NEXT, LAST = writer("next"), finisher("last")


def step(before: Files, after: Files) -> None:
    check(before.get(MANIFEST) in (None, after.get(MANIFEST)), "a manifest that stood was changed or removed")


PROMISES = Promises(always, step, at_the_end, gone_on_with)


def uuid_name(attempt: str) -> str:
    return bytes.fromhex(attempt).rstrip(b".").decode()


def test_no_order_of_two_writers_a_stragglers_copy_and_a_finisher_loses_or_doubles_a_partition() -> None:
    orders, states = explore([writer("a"), writer("b"), writer("copy"), finisher()], PROMISES)
    print(f"{orders:,} orders through {states:,} states")
    assert orders > 10**9


def test_without_create_only_puts_the_same_orders_lose_a_partition() -> None:
    without = replace(PROMISES, gone_on_with=partial(gone_on_with, create_only=False))
    with pytest.raises(BrokenPromiseError):
        explore([writer("a"), writer("b"), finisher()], without, create_only=False)


def test_in_no_order_is_a_partition_of_another_job_finished_under_this_ones_name() -> None:
    def own(folder: RunFolder) -> None:
        manifests = folder.manifests(PLAN.ids, "f")
        if manifests:
            folder.finish(PLAN, {})

    def never_mixed(files: Files) -> None:
        finished = "/run/_SUCCESS" in files
        check(not finished or json.loads(files[MANIFEST])["fingerprint"] == "f", "a foreign partition was finished")

    def each_its_own(_: Files, results: list[Any]) -> None:
        for result, fingerprint in zip(results, ("f", "other"), strict=False):
            assert not isinstance(result, Manifest) or result.fingerprint == fingerprint

    actors = [writer("a"), writer("x", "other"), Actor("own", own)]
    _, states = explore(actors, Promises(always=never_mixed, at_the_end=each_its_own))
    assert states > 100
