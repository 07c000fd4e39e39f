"""How partitions get to replicas and back, with replicas that are real actors and only play their work."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ActorUnavailableError

from p2pz_ray.collection.partition import Partition, Source
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config.processes import ReplicasConfig
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.running import crew as crew_module
from p2pz_ray.running import member as member_module
from p2pz_ray.running import pool as pool_module
from p2pz_ray.running.backlog import Backlog
from p2pz_ray.running.cluster import check_gpu
from p2pz_ray.running.member import Member
from p2pz_ray.running.metrics import DriverMetrics
from p2pz_ray.running.pool import Pool
from p2pz_ray.running.progress import Progress
from p2pz_ray.storage.failure import StorageError

pytestmark = pytest.mark.slow
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors can't import this file


class Player:
    """Does with a partition what the name of its file says: "play sleep 2", and "-once" for the first time alone."""

    def __init__(self, folder: Path, load: str = "") -> None:
        self.folder, self.how = folder, load

    def load(self) -> dict[str, Any]:
        if "late" in self.how:
            while not any(self.folder.iterdir()):  # until another one works
                time.sleep(0.05)
        if "fails" in self.how:
            raise ConfigError("model x can't be reached (HfHubHTTPError)")
        return {"pid": os.getpid()}

    def translate(self, partition: Partition) -> Manifest:
        _, *act = partition.sources[0].path.split()
        with (self.folder / partition.id).open("a") as tries:
            tries.write("x")
        first = (self.folder / partition.id).read_text() == "x"
        started = time.time()
        if act and (first or not act[0].endswith("-once")):
            self.act(act[0].removesuffix("-once"), float(act[1]) if len(act) > 1 else 0.0)
        return Manifest(partition.id, "1", "f", 1, 1, 1, 0, "", "", started, time.time())

    def act(self, what: str, seconds: float) -> None:
        if what == "sleep":
            time.sleep(seconds)
        elif what == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "outage":
            raise StorageError("s3://bucket/x can't be written: it is full.")
        elif what == "error":
            raise ValueError("a slip of the code")
        else:
            raise AssertionError(what)

    @ray.method(concurrency_group="watch")
    def underway(self) -> int:
        return 0


class Play:
    """A pool of players and what came of it."""

    def __init__(self, folder: Path, replicas: int, loads: Sequence[str], settings: dict[str, Any]) -> None:
        self.folder, self.said = folder, StringIO()
        self.done: list[str] = []
        self.quarantined: list[str] = []
        player = ray.remote(concurrency_groups={"watch": 1})(Player).options(num_cpus=0.5, max_restarts=-1)
        actors = [player.remote(folder, load) for load in [*loads, *[""] * replicas][:replicas]]
        progress = Progress(100, 0, 0, self.said)
        config = ReplicasConfig.model_validate({"min": 1, "max": replicas} | settings)
        self.pool = Pool(actors, config, self.quarantine, progress, DriverMetrics("play"))

    def quarantine(self, partition: Partition, sentence: str) -> Manifest:
        self.quarantined.append(sentence)
        return Manifest(partition.id, "1", "f", 1, 1, 0, 1, "", "", 0.0, 0.0)

    def run(self, acts: Sequence[str], each: Callable[[Manifest], None] = lambda manifest: None) -> list[str]:
        """The acts in the order in which they were done."""
        partitions = [Partition.of("files", [Source(f"{i} {act}", "1")]) for i, act in enumerate(acts)]
        names = {partition.id: partition.sources[0].path.partition(" ")[2] for partition in partitions}

        def done(manifest: Manifest) -> None:
            self.done.append(names[manifest.partition])
            each(manifest)

        self.pool.run(partitions, done)
        return self.done

    def tries(self) -> list[int]:
        return sorted(len(file.read_text()) for file in self.folder.iterdir())


@pytest.fixture
def play(tmp_path: Path, local_ray: None) -> Iterator[Callable[..., Play]]:
    played: list[Play] = []

    def make(replicas: int = 1, loads: Sequence[str] = (), **settings: Any) -> Play:
        played.append(Play(tmp_path, replicas, loads, settings))
        return played[-1]

    yield make
    for each in played:
        for member in each.pool.crew.members:
            member.release()


@pytest.mark.faults
def test_a_replica_that_does_not_move_is_started_anew_and_its_work_done(play: Callable[..., Play]) -> None:
    playing = play(deadline=6.0)  # long enough for a busy machine to begin the work that then stands still
    assert sorted(playing.run(["freeze-once", "sleep 0", "sleep 0"])) == ["freeze-once", "sleep 0", "sleep 0"]
    assert "has not moved for 6 s" in playing.said.getvalue()
    assert playing.tries() == [1, 1, 2]
    assert playing.quarantined == []


@pytest.mark.faults
def test_a_partition_that_hangs_every_replica_is_set_aside(play: Callable[..., Play]) -> None:
    playing = play(deadline=1.0, max_task_retries=1)
    playing.run(["sleep 9999", "sleep 0"])
    assert playing.tries() == [1, 3]  # once beside the other, and twice alone
    assert [sentence for sentence in playing.quarantined if "died 2 times" in sentence]


def test_what_is_slow_at_the_end_is_given_to_an_idle_replica_too_and_counts_once(play: Callable[..., Play]) -> None:
    playing = play(2)
    began = time.monotonic()
    playing.run([*["sleep 0.2"] * 4, "sleep-once 120"])
    assert sorted(playing.done) == ["sleep 0.2"] * 4 + ["sleep-once 120"]
    assert time.monotonic() - began < 100
    assert playing.tries() == [1, 1, 1, 1, 2]


def test_replicas_without_work_are_let_go_down_to_the_fewest(play: Callable[..., Play]) -> None:
    playing = play(4)
    left: list[int] = []
    playing.run(
        ["sleep 0.1", "sleep 0.1", "sleep 0.1", "sleep 6"], lambda _: left.append(len(playing.pool.crew.members))
    )
    assert left[-1] == 2  # the one at work and its spare
    kept = play(3, count=3, min=None, max=None)
    left.clear()
    kept.run(["sleep 0.1", "sleep 0.1", "sleep 2"], lambda _: left.append(len(kept.pool.crew.members)))
    assert left[-1] == 3


def test_a_run_begins_with_the_replicas_that_find_a_place(play: Callable[..., Play]) -> None:
    playing = play(6)  # two CPUs have room for four
    assert len(playing.run(["sleep 0.1"] * 8)) == 8


def test_a_stop_takes_in_what_is_worked_on_and_begins_nothing(play: Callable[..., Play]) -> None:
    playing = play(1, in_flight=3)

    def stop(_: Manifest) -> None:
        if len(playing.done) == 1:
            playing.pool.stop()

    began: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        playing.run(["sleep 0.3"] * 9, lambda manifest: (stop(manifest), began.append(time.monotonic())))
    assert time.monotonic() - began[0] < pool_module.DRAIN + 1.5
    assert len(playing.done) == 2
    time.sleep(0.5)
    assert sum(playing.tries()) <= 3


def test_a_stop_does_not_wait_for_what_takes_long_and_a_second_one_for_nothing(play: Callable[..., Play]) -> None:
    playing = play(1)
    threading.Timer(4.0, playing.pool.stop).start()
    with pytest.raises(KeyboardInterrupt):
        playing.run(["sleep 60"])
    with pytest.raises(KeyboardInterrupt):
        playing.pool.stop()


# ------------------------------------------------------------------------------------------- one bad replica


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that can't load try again soon."""
    monkeypatch.setattr(member_module, "BACK_OFF", 0.05)


@pytest.mark.faults
def test_a_replica_that_joins_late_and_can_not_load_costs_the_run_nothing(
    play: Callable[..., Play], impatient: None
) -> None:
    playing = play(4, loads=["late, fails"])
    assert len(playing.run(["sleep 0.1"] * 40)) == 40
    said = playing.said.getvalue()
    assert "A replica can't load the model: model x can't be reached (HfHubHTTPError). It will try again." in said
    assert playing.tries() == [1] * 40


@pytest.mark.faults
def test_a_replica_that_never_loads_is_given_up_and_a_run_without_any_other_ends(
    play: Callable[..., Play], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "LOADS", 2)
    playing = play(2, loads=["late, fails"])
    assert len(playing.run(["sleep 1"] * 4)) == 4
    assert "It is given up, and the others go on." in playing.said.getvalue()


def test_a_replica_whose_machine_is_being_replaced_is_waited_for_and_one_that_dies_of_loading_is_not(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = play(1).pool.crew
    [member] = crew.members
    member.load()

    def unavailable(_: Any) -> None:
        raise ActorUnavailableError("The actor is restarting.", None)

    monkeypatch.setattr(ray, "get", unavailable)
    monkeypatch.setattr(member, "trying", time.monotonic() - 10 * crew_module.LOADING)
    for _ in range(3 * crew_module.LOADS):
        crew.take_load(member)
    assert not member.given_up
    for _ in range(crew_module.LOADS):
        assert not member.given_up
        member.moved = time.monotonic()  # its process lived, and loaded
        crew.take_load(member)
    assert member.given_up


@pytest.mark.faults
def test_what_no_replica_can_load_ends_the_run_as_its_own_error(play: Callable[..., Play]) -> None:
    with pytest.raises(ConfigError, match=r"can't load the model: model x can't be reached"):
        play(2, loads=["fails", "fails"]).run(["sleep 0"])


@pytest.mark.faults
def test_one_that_fails_while_others_still_load_does_not_end_the_run(
    play: Callable[..., Play], impatient: None, tmp_path: Path
) -> None:
    playing = play(2, loads=["fails", "late"])
    # The second one has begun to load, as it is waited for, and goes on when the first has failed.
    failed = Member.failed

    def first_failed(member: Member, failure: Exception) -> None:
        failed(member, failure)
        (tmp_path / "another works").touch()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Member, "failed", first_failed)
        patched.setattr(Member, "placed", True)
        assert playing.run(["sleep 0"] * 3) == ["sleep 0"] * 3


def test_a_request_that_no_machine_can_meet_is_said_and_given_up(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "UNPLACED", 0.1)
    monkeypatch.setattr(crew_module, "GIVEN_UP", 1.2)
    playing = play(1)
    playing.pool.crew.members[0].release()
    playing.pool.crew.lacking = lambda: "No machine of the cluster has 1 GPUs for a replica."
    actor = ray.remote(concurrency_groups={"watch": 1})(Player).options(num_gpus=1).remote(playing.folder)
    playing.pool.crew.members = [Member(actor)]
    with pytest.raises(P2PZError, match=r"has 1 GPUs for a replica\. None has come within"):
        playing.run(["sleep 0"])
    assert "The run waits" in playing.said.getvalue()


def test_a_gpu_that_is_given_but_can_not_be_used_is_a_failure_and_no_slow_replica() -> None:
    check_gpu([], "auto")
    check_gpu(["0"], "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(P2PZError, match="has a GPU, but PyTorch finds none"):
            check_gpu(["0"], "auto")


def test_of_as_many_partitions_as_replicas_each_gets_one(play: Callable[..., Play]) -> None:
    playing = play(2, in_flight=2)
    most: list[int] = []
    hand = Member.hand

    def handed(member: Member, partition: Partition) -> None:
        hand(member, partition)
        most.append(len(member.work))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Member, "hand", handed)
        playing.run(["sleep 0.5"] * 2)
    assert max(most) == 1


def test_what_a_replica_says_of_a_partition_that_is_over_is_not_counted_beside_it() -> None:
    """It was asked before, and its answer comes after the commit."""
    member = Member(Answers([64, 0]))
    member.loaded(None)
    member.hand(Partition.of("files", [Source("a", "1")]))
    member.hear()
    handed = member.work[0]
    member.take(handed.ref)
    member.hand(Partition.of("files", [Source("b", "1")]))
    for _ in range(3):
        member.hear()
    assert member.underway == 0


class Answers:
    """An actor whose answers are there at once."""

    def __init__(self, underway: list[int]) -> None:
        self.answers = iter(underway)
        self.translate = self.underway = self

    def remote(self, *given: Any) -> Any:
        return ray.put(None if given else next(self.answers, 0))


def test_neighbours_of_one_row_group_go_to_one_replica_and_are_shared_out_near_the_end() -> None:
    def part(file: str, group: int, start: int) -> Partition:
        return Partition.of("parquet", [Source(file, "1", None, group, start, start + 1)])

    first = [part("a", 0, i) for i in range(4)]
    second = [part("a", 1, i) for i in range(2)]
    waiting = Backlog([*first, *second])
    assert [waiting.take("x"), waiting.take("y"), waiting.take("x")] == [first[0], second[0], first[1]]
    assert [waiting.take("y"), waiting.take("y")] == [second[1], first[3]]
    waiting.put(first[0], soon=True)
    waiting.put(second[0])
    waiting.discard(second[0].id)
    assert len(waiting) == 2
    assert [waiting.take("x"), waiting.take("x")] == [first[2], first[0]]
    assert len(waiting) == 0
    with pytest.raises(LookupError):
        waiting.take("x")


# ------------------------------------------------------------------------------------------------ the storage


def test_a_short_outage_of_the_storage_costs_no_partition_its_tries(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STORAGE_REST", 0.2)
    playing = play(2, max_task_retries=0)
    assert len(playing.run(["outage-once"] * 4 + ["sleep 0"] * 4)) == 8
    assert "s3://bucket/x can't be written: it is full: it is tried again" in playing.said.getvalue()
    assert playing.tries() == [1] * 4 + [2] * 4


def test_a_replica_whose_storage_failed_is_given_its_own_partition_again(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STORAGE_REST", 1.0)
    handed: dict[str, list[Member]] = {}
    hand = Member.hand

    def noted(member: Member, partition: Partition) -> None:
        handed.setdefault(partition.sources[0].path, []).append(member)
        hand(member, partition)

    monkeypatch.setattr(Member, "hand", noted)
    playing = play(2, in_flight=1)
    assert len(playing.run(["outage-once", *["sleep 0.05"] * 10])) == 11
    first, again = handed["0 outage-once"]
    assert first is again


def test_a_storage_that_stays_away_stops_the_run_and_is_named(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STORAGE_REST", 0.1)
    monkeypatch.setattr(pool_module, "OUTAGE", 1.0)
    with pytest.raises(P2PZError, match=r"can't be written: it is full\. What is committed stays"):
        play(2).run(["sleep 0", *["outage"] * 5])


def test_an_error_of_the_code_is_tried_again_then_named_after_all_else_is_done(play: Callable[..., Play]) -> None:
    playing = play(1, max_task_retries=2)
    with pytest.raises(P2PZError, match=r"1 partitions failed 3 times \(a slip of the code\); all others"):
        playing.run(["error", "error-once", "sleep 0"])
    assert sorted(playing.done) == ["error-once", "sleep 0"]
    assert playing.tries() == [1, 2, 3]
