"""The fixed pool of fault-tolerant actors, and the one loop that hands partitions to them."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from p2pz_ray.collection.manifest import Manifest
from p2pz_ray.collection.partition import Partition
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.running.progress import Progress

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""What Ray raises where a process or a machine is gone, and not where our code went wrong."""
LOADS = 4
"""Times in a row that a replica may die before its model is loaded; then it is given up."""
TICK = 0.5  # seconds between two looks at the progress


@dataclass(eq=False)
class _Member:
    """One replica: its actor, the partitions handed to it in order, and what was asked of it besides."""

    actor: Any
    work: deque[tuple[Any, Partition]] = field(default_factory=deque)
    loading: Any = None
    asked: Any = None
    underway: int = 0
    loads: int = 0


class Pool:
    """Works off partitions with replicas.

    replicas: the actors, which have `load`, `translate` and `underway`. They are used as they become ready, each with
    at most `in_flight` partitions at a time.
    retries: how often a partition is tried again after it killed its replica or raised an error.
    quarantine: called with a partition that killed its replica too often; writes its error rows.
    """

    def __init__(
        self,
        replicas: Sequence[Any],
        *,
        in_flight: int,
        retries: int,
        quarantine: Callable[[Partition, str], Manifest],
        progress: Progress,
    ) -> None:
        self.members = [_Member(actor) for actor in replicas]
        self.in_flight, self.retries = in_flight, retries
        self.quarantine, self.progress = quarantine, progress
        self.waiting: deque[Partition] = deque()
        self.deaths: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        """Partition id → why it could be neither translated nor quarantined."""

    def run(self, partitions: Sequence[Partition], done: Callable[[Manifest], None]) -> None:
        """Work off `partitions`; `done` is called with each one's manifest.

        Raises ConfigError for a configuration that no replica can work with, P2PZError where all replicas are gone
        or, after everything else is done, where partitions raised errors again and again.
        """
        self.done = done
        self.waiting = deque(partitions)
        for member in self.members:
            self._load(member)
        while self.waiting or any(member.work for member in self.members):
            if not self.members:
                raise P2PZError("All replicas died while they loaded the model: see the messages above and Ray's logs.")
            self._hand_out()
            self._collect()
            ready = [member for member in self.members if member.loading is None]
            self.progress.show(sum(member.underway for member in ready if member.work), len(ready))
        if self.broken:
            reason = next(iter(self.broken.values()))
            raise P2PZError(
                f"{len(self.broken)} partitions failed {self.retries + 1} times ({reason}); all others are committed, "
                "so mend the cause and run the same command again."
            )

    def _hand_out(self) -> None:
        ready = [member for member in self.members if member.loading is None]
        # A second partition bridges the pause between two, but near the end it would keep another replica idle.
        deep = len(self.waiting) >= len(self.members)
        for depth in range(self.in_flight if deep else 1):
            for member in ready:
                if self.waiting and len(member.work) <= depth:
                    partition = self.waiting.popleft()
                    member.work.append((member.actor.translate.remote(partition), partition))
        for member in ready:
            if member.work and member.asked is None:
                member.asked = member.actor.underway.remote()

    def _collect(self) -> None:
        """Wait for anything to happen, and take in all that has."""
        owners = {}
        for member in self.members:
            owners.update({ref: member for ref, _ in member.work})
            if member.loading is not None:
                owners[member.loading] = member
        ray.wait(list(owners), num_returns=1, timeout=TICK)
        happened = set(ray.wait(list(owners), num_returns=len(owners), timeout=0)[0])
        # In the order of submission: what a replica finished before it died is no longer among its lost work.
        for ref in [ref for ref in owners if ref in happened]:
            member = owners[ref]
            if ref is member.loading:
                self._loaded(member)
            elif any(ref is mine for mine, _ in member.work):
                self._worked(member, ref)
        self._hear()

    def _worked(self, member: _Member, ref: Any) -> None:
        at = next(i for i, (mine, _) in enumerate(member.work) if mine is ref)
        partition = member.work[at][1]
        try:
            manifest = ray.get(ref)
        except LOST as error:
            self._lost(member, error)
            return
        except RayTaskError as error:
            del member.work[at]
            self._erred(partition, error)
            return
        del member.work[at]
        member.underway = 0
        self._commit(manifest)

    def _commit(self, manifest: Manifest) -> None:
        self.progress.commit(manifest.images, manifest.failed * manifest.images // max(1, manifest.rows))
        self.done(manifest)

    def _lost(self, member: _Member, error: BaseException) -> None:
        """A replica's process is gone. What it was working on, the oldest of its partitions, is to blame, unless the
        machine was taken away; the others only waited there."""
        partitions = [partition for _, partition in member.work]
        member.work.clear()
        member.underway, member.asked = 0, None
        running, idle = partitions[0], partitions[1:]
        self.waiting.extendleft(reversed(idle))
        if not getattr(error, "preempted", False) and not isinstance(error, NodeDiedError):
            self.deaths[running.id] += 1
        self.progress.say(f"A replica was lost ({first_line(error)}); its work is handed out again.")
        if self.deaths[running.id] > self.retries:
            deaths = self.deaths[running.id]
            sentence = f"The process that translated its partition died {deaths} times, so the partition is left out."
            self._commit(self.quarantine(running, sentence))
        else:
            self.waiting.append(running)
        self._load(member)

    def _erred(self, partition: Partition, error: RayTaskError) -> None:
        if isinstance(error.cause, ConfigError):
            raise ConfigError(str(error.cause)) from error
        self.errors[partition.id] += 1
        reason = first_line(error.cause)
        if self.errors[partition.id] > self.retries:
            self.broken[partition.id] = reason
            self.progress.say(f"Partition {partition.id} is given up for this time ({reason}).")
        else:
            self.waiting.append(partition)

    def _load(self, member: _Member) -> None:
        member.loads += 1
        member.loading = member.actor.load.remote()

    def _loaded(self, member: _Member) -> None:
        try:
            ray.get(member.loading)
        except LOST as error:
            if "creation task" in str(error):  # not a death: Ray could not even make the actor, and will not try again
                raise P2PZError(f"A replica can't start on the cluster: {_last_line(error)}.") from error
            self.progress.say(f"A replica died while it loaded the model ({first_line(error)}).")
            if member.loads >= LOADS:
                self.members.remove(member)
            else:
                self._load(member)
            return
        except RayTaskError as error:
            kind = ConfigError if isinstance(error.cause, ConfigError) else P2PZError
            raise kind(f"A replica can't load the model: {first_line(error.cause)}") from error
        member.loading, member.loads = None, 0

    def _hear(self) -> None:
        """Take in what replicas say of their progress; that one can't answer shows elsewhere."""
        for member in self.members:
            if member.asked is not None and ray.wait([member.asked], timeout=0)[0]:
                try:
                    member.underway = ray.get(member.asked)
                except Exception:
                    member.underway = 0
                member.asked = None


def _last_line(error: BaseException) -> str:
    """Where Python and Ray have the cause in a traceback's text."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
