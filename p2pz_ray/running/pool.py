"""The pool of fault-tolerant actors, and the one loop that hands partitions to them."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from p2pz_ray.collection.failure import FileError, StorageError
from p2pz_ray.collection.manifest import Manifest
from p2pz_ray.collection.partition import Partition
from p2pz_ray.config import ReplicasConfig
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.running.member import Member
from p2pz_ray.running.metrics import DriverMetrics
from p2pz_ray.running.progress import Progress

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""What Ray raises where a process or a machine is gone, and not where our code went wrong."""
LOADS = 4
"""Times in a row that a replica may die before its model is loaded; then it is given up, but not sooner than"""
LOADING = 60.0  # seconds after the first: while a lost machine is replaced, replicas fail several times at once
OUTAGE = 60.0
"""Seconds for which nothing but failures of the storage may happen before the run is stopped."""
REST = 2.0  # seconds without new work after such a failure
SLOW = 2.0  # times the usual duration after which a partition near the end is given to an idle replica too
DRAIN = 1.5  # seconds that a stop leaves for what is being worked on: a stopped Ray job has three in all
TICK = 0.5  # seconds between two looks at the progress


class Pool:
    """Works off partitions with replicas.

    replicas: the actors, which have `load`, `translate` and `underway`. They are used as they become ready and are
    let go as the work runs out, down to the fewest that `settings` ask for.
    quarantine: called with a partition that killed its replica too often; writes its error rows.
    """

    def __init__(
        self,
        replicas: Sequence[Any],
        settings: ReplicasConfig,
        quarantine: Callable[[Partition, str], Manifest],
        progress: Progress,
        metrics: DriverMetrics,
    ) -> None:
        self.members = [Member(actor) for actor in replicas]
        self.settings, self.quarantine, self.progress, self.metrics = settings, quarantine, progress, metrics
        self.waiting: deque[Partition] = deque()
        self.left: dict[str, Partition] = {}
        """Partition id → partition, of all that is not done."""
        self.deaths: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        """Partition id → why it could be neither translated nor quarantined."""
        self._spent: deque[float] = deque(maxlen=64)  # seconds that the last partitions took
        self._outage: float | None = None  # when the storage began to fail
        self._rest = 0.0  # nothing is handed out before
        self._stop: float | None = None

    def stop(self) -> None:
        """Take no further partition and, from a signal's handler, have `run` end within `DRAIN` seconds."""
        if self._stop is not None:
            raise KeyboardInterrupt  # asked twice
        self._stop = time.monotonic() + DRAIN

    def run(self, partitions: Sequence[Partition], done: Callable[[Manifest], None]) -> None:
        """Work off `partitions`; `done` is called with each one's manifest.

        Raises ConfigError for a configuration that no replica can work with, P2PZError where all replicas are gone,
        where the storage stays away or, after everything else is done, where partitions raised errors again and
        again; KeyboardInterrupt where it was stopped.
        """
        self.done = done
        self.waiting, self.left = deque(partitions), {partition.id: partition for partition in partitions}
        for member in self.members:
            member.load()
        while self.left:
            if not self.members:
                raise P2PZError("All replicas died while they loaded the model: see the messages above and Ray's logs.")
            if self._stop is not None:
                self._drain(self._stop)
                raise KeyboardInterrupt
            self._hand_out()
            self._collect(TICK)
            self._watch()
        self._release(self.members)
        if self.broken:
            reason = next(iter(self.broken.values()))
            raise P2PZError(
                f"{len(self.broken)} partitions failed {self.settings.max_task_retries + 1} times ({reason}); all "
                "others are committed, so mend the cause and run the same command again."
            )

    # ------------------------------------------------------------------------------------------- handing out

    def _hand_out(self) -> None:
        if time.monotonic() < self._rest:
            return
        ready = [member for member in self.members if member.ready]
        # A second partition bridges the pause between two, but near the end it would keep another replica idle.
        deep = len(self.waiting) >= len(self.members)
        for depth in range(self.settings.in_flight if deep else 1):
            for member in ready:
                if self.waiting and len(member.work) <= depth:
                    member.hand(self.waiting.popleft())
        if not self.waiting:
            self._second()
            self._shrink()

    def _second(self) -> None:
        """Give what takes unusually long to an idle replica too: the first to commit it counts."""
        idle = [member for member in self.members if member.idle]
        if not (idle and self._spent):
            return
        copies = Counter(handed.partition.id for member in self.members for handed in member.work)
        late = time.monotonic() - SLOW * median(self._spent)
        slow = [handed for member in self.members for handed in list(member.work)[:1] if handed.since < late]
        for member, handed in zip(idle, sorted(slow, key=lambda handed: handed.since), strict=False):
            if copies[handed.partition.id] == 1:
                member.hand(handed.partition)

    def _shrink(self) -> None:
        """Let go of replicas that nothing is left for, so that the cluster can give their machines back: each
        partition underway keeps one spare replica, since it may come back or be slow."""
        spare = [member for member in self.members if not member.ready] + [m for m in self.members if m.idle]
        many = min(len(spare) - len(self.left), len(self.members) - self.settings.bounds[0])
        if many > 0:
            self._release(spare[:many])

    def _release(self, members: Sequence[Member]) -> None:
        refs = [handed.ref for member in members for handed in member.work]
        for member in members:
            member.release()
        self.members = [member for member in self.members if member not in members]
        if refs:  # copies of partitions that others were faster with: none may write any more
            ray.wait(refs, num_returns=len(refs), timeout=30)

    # --------------------------------------------------------------------------------------------- taking in

    def _collect(self, timeout: float) -> None:
        """Wait for anything to happen, and take in all that has."""
        owners = {}
        for member in self.members:
            owners.update({handed.ref: member for handed in member.work})
            if member.loading is not None:
                owners[member.loading] = member
        ray.wait(list(owners), num_returns=1, timeout=timeout)
        happened = set(ray.wait(list(owners), num_returns=len(owners), timeout=0)[0])
        # In the order of submission: what a replica finished before it died is no longer among its lost work.
        for ref in [ref for ref in owners if ref in happened]:
            member = owners[ref]
            if ref is member.loading:
                self._loaded(member)
            elif any(ref is handed.ref for handed in member.work):
                self._worked(member, ref)

    def _watch(self) -> None:
        """Hear how far the replicas are, show it, and end those that don't move."""
        for member in self.members:
            member.hear()
            if member.stuck(self.settings.deadline):
                self.progress.say(f"A replica has not moved for {self.settings.deadline:g} s: it is started anew.")
                member.restart()
        ready = [member for member in self.members if member.ready]
        self.progress.show(sum(member.underway for member in ready), len(ready))
        self.metrics.replicas.set(len(ready))
        self.metrics.left.set(len(self.left))

    def _worked(self, member: Member, ref: Any) -> None:
        try:
            manifest = ray.get(ref)
        except LOST as error:
            self._lost(member, error)
            return
        except TaskCancelledError:
            member.take(ref)
            return
        except RayTaskError as error:
            self._erred(member.take(ref).partition, error)
            return
        handed = member.take(ref)
        self._spent.append(time.monotonic() - handed.since)
        self._outage = None
        self._commit(handed.partition, manifest)

    def _commit(self, partition: Partition, manifest: Manifest) -> None:
        if self.left.pop(partition.id, None) is not None:  # a copy of it may be done already
            self.progress.commit(manifest.images, manifest.failed * manifest.images // max(1, manifest.rows))
            self.done(manifest)

    def _again(self, partition: Partition, soon: bool = False) -> None:
        """Hand a partition out once more, unless it is done or another replica has it."""
        if partition.id in self.left and not self._held(partition):
            (self.waiting.appendleft if soon else self.waiting.append)(partition)

    def _held(self, partition: Partition) -> bool:
        """Whether a replica has it, or it waits for one."""
        handed = any(handed.partition.id == partition.id for member in self.members for handed in member.work)
        return handed or any(waiting.id == partition.id for waiting in self.waiting)

    def _lost(self, member: Member, error: BaseException) -> None:
        """A replica's process is gone. What it was working on, the oldest of its partitions, is to blame, unless the
        machine was taken away; the others only waited there."""
        running, *idle = member.take_all()
        for partition in reversed(idle):
            self._again(partition, soon=True)
        if not getattr(error, "preempted", False) and not isinstance(error, NodeDiedError):
            self.deaths[running.id] += 1
        deaths = self.deaths[running.id]
        self.metrics.lost.inc()
        self.progress.say(f"A replica was lost ({first_line(error)}); its work is handed out again.")
        if deaths > self.settings.max_task_retries and running.id in self.left:
            sentence = f"The process that translated its partition died {deaths} times, so the partition is left out."
            self._commit(running, self.quarantine(running, sentence))
        else:
            self._again(running)
        member.load()

    def _erred(self, partition: Partition, error: RayTaskError) -> None:
        cause, reason = error.cause, first_line(error.cause)
        if isinstance(cause, ConfigError):
            raise ConfigError(str(cause)) from error
        if isinstance(cause, StorageError) and not isinstance(cause, FileError):
            self._storage_failed(partition, reason)
            return
        self.errors[partition.id] += 1
        if self.errors[partition.id] > self.settings.max_task_retries and not self._held(partition):
            self.broken[partition.id] = reason
            self.left.pop(partition.id, None)
            self.progress.say(f"Partition {partition.id} is given up for this time ({reason}).")
        else:
            self._again(partition)

    def _storage_failed(self, partition: Partition, reason: str) -> None:
        """It is no partition's fault: all wait, and the run stops where the storage doesn't come back."""
        now = time.monotonic()
        if self._outage is None:
            self._outage = now
            self.progress.say(f"{reason}: it is tried again for {OUTAGE:.0f} s.")
        elif now - self._outage > OUTAGE:
            raise P2PZError(f"{reason}. What is committed stays: mend it, and the same command goes on from there.")
        self._rest = now + REST
        self._again(partition)

    def _loaded(self, member: Member) -> None:
        try:
            ray.get(member.loading)
        except LOST as error:
            if "creation task" in str(error):  # not a death: Ray could not even make the actor, and will not try again
                raise P2PZError(f"A replica can't start on the cluster: {_last_line(error)}.") from error
            if member.loads == 1:  # while a lost machine is replaced it happens several times in a row
                self.progress.say(f"A replica died while it loaded the model ({first_line(error)}).")
            if member.loads >= LOADS and time.monotonic() - member.trying > LOADING:
                self.members.remove(member)
            else:
                member.load()
            return
        except RayTaskError as error:
            kind = ConfigError if isinstance(error.cause, ConfigError) else P2PZError
            raise kind(f"A replica can't load the model: {first_line(error.cause)}") from error
        member.loaded()

    # -------------------------------------------------------------------------------------------- stopping

    def _drain(self, until: float) -> None:
        """Take in what is being worked on, as far as it is done by then; begin nothing."""
        for member in self.members:
            for handed in list(member.work)[1:]:
                ray.cancel(handed.ref)
        self.progress.say("Stopping: what is being worked on has a moment to end.")
        while (remaining := until - time.monotonic()) > 0 and any(member.work for member in self.members):
            self._collect(min(TICK, remaining))


def _last_line(error: BaseException) -> str:
    """Where Python and Ray have the cause in a traceback's text."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
