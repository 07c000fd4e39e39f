"""Drivers that plan, append to and finish one run, under every order of their storage calls."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from orders import Actor, BrokenPromiseError, Files, Promises, check, explore

from p2pz_ray.collection import shards as shards_module
from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.collection.shards import Shards, gathered
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.errors import P2PZError


def plan_of(names: str) -> Plan:
    return Plan(gathered(Partition.of("files", [Source(f"{name}.png", "1-1")]) for name in names))


def standing(files: Files) -> list[dict[str, Any]]:
    """The plans of a run, in order."""
    names = ["/run/plan.json", *(f"/run/plan.{number}.json" for number in range(2, 9))]
    return [json.loads(files[name]) for name in names if name in files]


def plans_stand(before: Files, after: Files) -> None:
    """What a driver has begun with is what all others begin with."""
    for name, data in before.items():
        if name.startswith("/run/plan."):
            check(after.get(name) == data, f"{name} was changed or removed")


# --------------------------------------------------------------------------------------- plans that stand in shards


@pytest.fixture
def shard_of_each() -> Iterator[Callable[[str], Plan]]:
    """Plans with a shard for each partition."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shards_module, "INLINE", 0)
        patched.setattr(shards_module, "SHARD", 1)
        yield plan_of


def planner(name: str, plan: Plan, more: Plan | None = None) -> Actor:
    """Plans a run, or appends `more` where it finds it planned."""

    def act(folder: RunFolder) -> list[str]:
        if more is not None and folder.plan() is not None:
            return folder.append(more).ids
        return folder.create_plan(plan).ids

    return Actor(name, act)


def whole_plans(*plans: Plan) -> Promises:
    """The promises of a run of these plans."""
    contents: dict[tuple[str, ...], bytes] = {}
    for plan in plans:
        assert isinstance(plan.partitions, Shards)
        for shard in plan.partitions.shards:
            contents[shard.ids] = plan.partitions.store.read(shard.file)

    def shards_stand(files: Files) -> None:
        for plan in standing(files):
            for shard in plan["shards"]:
                found = files.get(f"/run/{shard['file']}")
                check(found == contents[tuple(shard["ids"])], "a plan's shard is gone or another's")

    def one_plan(files: Files, results: list[Any]) -> None:
        ids = [id for plan in standing(files) for shard in plan["shards"] for id in shard["ids"]]
        for result in results:
            known = isinstance(result, P2PZError) or ids[: len(result)] == result
            check(known, "a driver works by a plan that doesn't stand")
        named = {f"/run/{shard['file']}" for plan in standing(files) for shard in plan["shards"]}
        check({name for name in files if name.startswith("/run/plan/")} == named, "shards of no plan stay")

    def goes_on(files: Files) -> None:
        files, result = following.alone(files)
        check(not isinstance(result, P2PZError) and bool(standing(files)), f"a run could not be planned: {result}")
        shards_stand(files)

    following = planner("next", plans[0], plans[-1])
    return Promises(shards_stand, plans_stand, one_plan, goes_on)


def test_no_order_of_two_drivers_that_plan_and_one_that_appends_loses_or_mixes_a_shard(
    shard_of_each: Callable[[str], Plan],
) -> None:
    first, second, more = map(shard_of_each, ("a", "b", "b"))  # what one would begin with, another appends
    promises = whole_plans(first, second, more)
    orders, states = explore([planner("a", first), planner("b", second), planner("x", first, more)], promises)
    print(f"{orders:,} orders through {states:,} states")
    assert orders > 10**6


def test_no_order_of_two_drivers_that_append_loses_or_mixes_a_shard(shard_of_each: Callable[[str], Plan]) -> None:
    first, more, other = map(shard_of_each, ("a", "bc", "cd"))
    promises = whole_plans(first, more, other)
    files, _ = planner("begun", first).alone({})
    orders, states = explore([planner("a", first, more), planner("b", first, other)], promises, files=files)
    print(f"{orders:,} orders through {states:,} states")
    assert orders > 10**4


def test_without_create_only_puts_plans_are_mixed(shard_of_each: Callable[[str], Plan]) -> None:
    first, second = map(shard_of_each, ("ab", "bc"))
    with pytest.raises(BrokenPromiseError):
        explore([planner("a", first), planner("b", second)], whole_plans(first, second), create_only=False)


# ------------------------------------------------------------------------------------------- appending and finishing


def driver(name: str, more: Plan | None = None) -> Actor:
    """Goes on with a run, as `translate` does, and appends `more`, unless that was done before."""

    def act(folder: RunFolder) -> str:
        plan = folder.plan()
        assert plan is not None
        if more is not None and not set(more.ids) <= set(plan.ids):
            plan = folder.append(more)
        elif folder.finished:
            folder.sweep()
            return "there was nothing to do"
        done = folder.manifests(plan.ids, "f")
        for id in plan.ids:
            if id not in done:
                folder.commit(id, name.encode(), images=1, rows=1, failed=0, fingerprint="f", started=0.0)
        folder.finish(plan, {"images": plan.images})
        return "done"

    return Actor(name, act)


def is_finished(files: Files) -> bool:
    marked = json.loads(files.get("/run/_SUCCESS", b"null"))
    return marked is not None and marked["plans"] == len(standing(files))


def finished_is_complete(files: Files) -> None:
    for plan in standing(files) if is_finished(files) else ():
        for id, *_ in plan["partitions"]:
            manifest = files.get(f"/run/manifest/{id}.json")
            check(manifest is not None, "a run is finished without a partition")
            check(f"/run/{json.loads(manifest or b'')['file']}" in files, "a finished run lost a partition's pairs")


def manifests_stand(before: Files, after: Files) -> None:
    plans_stand(before, after)
    for name, data in before.items():
        if name.startswith("/run/manifest/"):
            check(after.get(name) == data, f"{name} was changed or removed")


def all_is_done(files: Files, images: int | None = None) -> None:
    check(is_finished(files), "the run was not finished")
    finished_is_complete(files)
    named = {f"/run/{json.loads(data)['file']}" for name, data in files.items() if name.startswith("/run/manifest/")}
    check({name for name in files if name.startswith("/run/data/")} == named, "a partition has two files")
    check(json.loads(files["/run/_SUCCESS"])["images"] == sum(plan["images"] for plan in standing(files)), "wrong sums")


AGAIN = driver("again")


def told_or_done(files: Files, results: list[Any]) -> None:
    """A driver whose run was appended to says that the same command must be run again; then it is done."""
    if any(isinstance(result, P2PZError) for result in results):
        files, _ = AGAIN.alone(files)
    all_is_done(files)


def goes_on(files: Files) -> None:
    """Whoever runs the command again after all were killed finishes what was begun."""
    files, result = AGAIN.alone(files)
    check(not isinstance(result, P2PZError), f"a run could not be gone on with: {result}")
    all_is_done(files)


def test_in_no_order_is_what_is_appended_lost_to_a_driver_that_finishes_what_came_before() -> None:
    files, _ = Actor("begun", lambda folder: folder.create_plan(plan_of("a"))).alone({})
    files, _ = driver("worker").alone(files)
    del files["/run/_SUCCESS"]
    promises = Promises(finished_is_complete, manifests_stand, told_or_done, goes_on)
    orders, states = explore([driver("old"), driver("appends", plan_of("b"))], promises, files=files)
    print(f"{orders:,} orders through {states:,} states")
    assert orders > 10**4
