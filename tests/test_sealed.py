"""What a driver seals of a run's manifests is read instead of them, and never believed against what stands."""

from collections.abc import Iterator
from typing import Any

import pytest

from p2pz_ray.collection import Partition, Plan, Source
from p2pz_ray.commit.folder import SEALED, RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.errors import P2PZError
from p2pz_ray.translation.status import status

PLAN = Plan(tuple(Partition.of("files", [Source(f"{i:03}.png", "1-1")]) for i in range(60)))
IDS = [partition.id for partition in PLAN.partitions]


@pytest.fixture
def run() -> Iterator[RunFolder]:
    folder = RunFolder("memory://sealed/run")
    folder.create_plan(PLAN)
    yield folder
    folder.store.fs.rm("/sealed", recursive=True)


def commit(run: RunFolder, id: str, fingerprint: str = "f") -> Manifest:
    return run.commit(id, b".", images=1, rows=1, failed=0, fingerprint=fingerprint, started=0.0)


def committed(run: RunFolder) -> dict[str, Manifest]:
    return run.manifests(PLAN.ids, "f")


def test_a_few_files_are_read_however_many_partitions_are_done(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {id: commit(run, id) for id in IDS[:50]}
    run.seal(made)
    made |= {id: commit(run, id) for id in IDS[50:]}
    read: list[str] = []
    cat_file = run.store.fs.cat_file

    def counted(path: str, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return cat_file(path, *arguments, **options)

    monkeypatch.setattr(run.store.fs, "cat_file", counted)
    found = committed(run)
    assert found == made
    assert list(found) == IDS
    assert len(read) == 11
    run.finish(PLAN, {"by": "test"})
    read.clear()
    assert status(run.uri).done == 60
    assert len(read) == 3, read


def test_a_partition_whose_manifest_or_file_was_removed_is_not_done(run: RunFolder) -> None:
    made = {id: commit(run, id) for id in IDS}
    run.seal(made)
    run.store.remove(f"manifest/{IDS[0]}.json")
    run.store.remove(made[IDS[1]].file)
    assert list(committed(run)) == IDS[2:]
    run.seal(committed(run))  # as a driver does that goes on
    for id in IDS[:2]:
        made[id] = commit(run, id)
    assert committed(run) == made


def test_a_sealed_file_that_is_damaged_costs_nothing_but_time(run: RunFolder) -> None:
    made = {id: commit(run, id) for id in IDS}
    run.seal(made)
    whole = run.store.read(SEALED)
    for broken in (b"", whole[: len(whole) // 2], b"[]", b"{}"):
        run.store.write(SEALED, broken)
        assert committed(run) == made


def test_what_another_job_sealed_is_refused(run: RunFolder) -> None:
    run.seal({IDS[0]: commit(run, IDS[0], "other")})
    with pytest.raises(P2PZError, match="was made by another configuration, model or direction"):
        committed(run)


def test_nothing_stays_sealed_of_a_run_whose_manifests_were_all_removed(run: RunFolder) -> None:
    run.seal({IDS[0]: commit(run, IDS[0])})
    run.seal({})
    assert not run.store.exists(SEALED)
