"""The pool of fault-tolerant actors, and the one loop that hands partitions to them."""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    RayTaskError,
    TaskCancelledError,
)

from p2pz_ray.amount import count
from p2pz_ray.config.processes import ReplicasConfig
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.running.backlog import Backlog, Work
from p2pz_ray.running.crew import LOADS, LOST, Crew
from p2pz_ray.running.member import Handed, Member
from p2pz_ray.running.metrics import DriverMetrics
from p2pz_ray.running.progress import Progress
from p2pz_ray.storage.failure import FileError, StorageError

SUSPICION = 30.0
"""Seconds after which the machine of a lost replica is taken to be alive: Ray may report its loss that late."""
OUTAGE = 600.0
"""Seconds of nothing but storage failures after which the run stops."""
STORAGE_REST = 2.0  # seconds, plus or minus half, that a replica rests after a storage failure
SLOW = 2.0  # times the usual duration after which, near the end, an idle replica gets a slow partition too
DRAIN = 1.5  # seconds that a stop leaves for work in progress: a stopped Ray job has three in all
TICK = 0.5  # seconds between two looks at the progress


@dataclass(frozen=True)
class Suspect:
    """The partitions that a replica had when it was lost, and its node."""

    partitions: tuple[Work, ...]
    member: Member
    node: str | None
    since: float = field(default_factory=time.monotonic)


class Pool:
    """Processes partitions with replicas.

    replicas: the actors, with the methods `load`, `underway` and the one named `task`, which processes a partition and
    returns its result with `images`, `rows` and `failed`. They are used as they become ready, and released as the work
    runs out, down to the minimum in `settings`.
    quarantine: called with a partition that killed its replica too often; writes its error rows.
    lacking: returns a sentence on the resources that no machine of the cluster has, or None.
    """

    def __init__(
        self,
        replicas: Sequence[Any],
        settings: ReplicasConfig,
        quarantine: Callable[[Any, str], Any],
        progress: Progress,
        metrics: DriverMetrics,
        lacking: Callable[[], str | None] = lambda: None,
        task: str = "translate",
    ) -> None:
        self.crew = Crew(replicas, task, progress, lacking)
        self.settings, self.quarantine, self.progress, self.metrics = settings, quarantine, progress, metrics
        self.waiting = Backlog()
        self.left: dict[str, Work] = {}
        """Partition id → partition, for all that are not done."""
        self.held: Counter[str] = Counter()
        """Partition id → number of replicas that have it."""
        self.suspects: list[Suspect] = []
        self.alone: set[str] = set()
        """Ids of partitions that are given to a replica one at a time, because a replica was lost with several of them:
        that shows which one is to blame."""
        self.deaths: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        """Partition id → why it could be neither translated nor quarantined."""
        self._committed = False  # whether any partition was done
        self._spent: deque[float] = deque(maxlen=64)  # seconds that the last partitions took
        self._outage: float | None = None  # when the storage began to fail
        self._stop: float | None = None

    def stop(self) -> None:
        """Start no further partition; called from a signal handler, `run` then ends within `DRAIN` seconds."""
        if self._stop is not None:
            raise KeyboardInterrupt  # asked twice
        self._stop = time.monotonic() + DRAIN

    def run(self, partitions: Sequence[Work], done: Callable[[Any], None]) -> None:
        """Process `partitions`; `done` is called with the result of each.

        Raises ConfigError for a configuration that no replica can work with; P2PZError if all replicas are gone, if the
        storage stays unavailable or, after everything else is done, if partitions failed again and again;
        KeyboardInterrupt if it was stopped.
        """
        self.done = done
        self.waiting, self.left = Backlog(partitions), {partition.id: partition for partition in partitions}
        self.crew.load()
        while self.left:
            self.crew.check()
            if self._stop is not None:
                self._drain(self._stop)
                raise KeyboardInterrupt
            self._hand_out()
            self._collect(TICK)
            self._judge()
            self.metrics.replicas.set(self.crew.hear(self.settings.deadline))
            self.metrics.left.set(len(self.left))
        self.crew.release(self.crew.members)
        if self.broken:
            reason = next(iter(self.broken.values()))
            raise P2PZError(
                f"{len(self.broken)} partitions failed {self.settings.max_task_retries + 1} times ({reason}); all "
                "others are committed, so mend the cause and run the same command again."
            )

    # ------------------------------------------------------------------------------------------- handing out

    def _hand_out(self) -> None:
        now = time.monotonic()
        ready = [member for member in self.crew.members if member.ready and member.rested <= now]
        for member in ready:
            while member.kept and len(member.work) < self.settings.in_flight:
                partition = member.kept.popleft()
                self.held[partition.id] -= 1
                if partition.id in self.left:
                    self._hand(member, partition)
        for depth in range(self.settings.in_flight):
            for member in ready:
                # A second partition avoids a pause after the first, but must not be taken from an idle replica.
                others = sum(not other.work and not other.given_up for other in self.crew.members) if depth else 0
                if len(self.waiting) > others and len(member.work) <= depth and not self._has_one_alone(member):
                    partition = self.waiting.take(member)
                    if member.work and partition.id in self.alone:
                        self.waiting.put(partition, soon=True)
                    else:
                        self._hand(member, partition)
        if not self.waiting:
            self._second()
            self._shrink()

    def _hand(self, member: Member, partition: Work) -> None:
        try:
            whole = partition.whole()
        except FileError:
            raise
        except StorageError as error:  # part of the plan can't be read at the moment
            self._outage_goes_on(first_line(error))
            member.rested = time.monotonic() + STORAGE_REST * random.uniform(0.5, 1.5)
            self._again(partition, soon=True)
            return
        self.held[partition.id] += 1
        member.hand(whole)

    def _has_one_alone(self, member: Member) -> bool:
        return any(handed.partition.id in self.alone for handed in member.work)

    def _second(self) -> None:
        """Give a partition that takes unusually long to an idle replica too: the first commit counts."""
        idle = [member for member in self.crew.members if member.idle]
        if not (idle and self._spent):
            return
        late = time.monotonic() - SLOW * median(self._spent)
        slow = [handed for member in self.crew.members for handed in list(member.work)[:1] if handed.since < late]
        for member, handed in zip(idle, sorted(slow, key=lambda handed: handed.since), strict=False):
            if self.held[handed.partition.id] == 1:
                self._hand(member, handed.partition)

    def _shrink(self) -> None:
        """Release replicas without work, so that the cluster can give their machines back. One spare is kept per
        partition in progress, which may have to be repeated or be slow."""
        awaited = [suspect.member for suspect in self.suspects]
        spare = [member for member in self.crew.members if not member.ready and member not in awaited]
        spare += [member for member in self.crew.members if member.idle]
        many = min(len(spare) - len(self.left), len(self.crew.members) - self.settings.bounds[0])
        if many > 0:
            self.crew.release(spare[:many])

    # --------------------------------------------------------------------------------------------- taking in

    def _collect(self, timeout: float) -> None:
        """Wait for any result, and handle all that are there."""
        owners = {}
        for member in self.crew.members:
            owners.update({handed.ref: member for handed in member.work})
            if member.loading is not None:
                owners[member.loading] = member
        ray.wait(list(owners), num_returns=1, timeout=timeout)
        happened = set(ray.wait(list(owners), num_returns=len(owners), timeout=0)[0])
        # In order of submission, so that what a replica finished before it died doesn't count as lost.
        for ref in [ref for ref in owners if ref in happened]:
            member = owners[ref]
            if ref is member.loading:
                self.crew.take_load(member)
            elif any(ref is handed.ref for handed in member.work):
                self._worked(member, ref)

    def _worked(self, member: Member, ref: Any) -> None:
        try:
            manifest = ray.get(ref)
        except LOST as error:
            self._lost(member, error)
            return
        except TaskCancelledError:
            self._took(member, ref)
            return
        except RayTaskError as error:
            self._erred(member, self._took(member, ref).partition, error)
            return
        handed = self._took(member, ref)
        member.lost_with.clear()
        self._spent.append(time.monotonic() - handed.since)
        self._outage = None
        self._commit(handed.partition, manifest)

    def _took(self, member: Member, ref: Any) -> Handed:
        handed = member.take(ref)
        self.held[handed.partition.id] -= 1
        return handed

    def _commit(self, partition: Work, manifest: Any) -> None:
        if self.left.pop(partition.id, None) is not None:  # a copy of it may be done already
            self._committed = True
            self.waiting.discard(partition.id)
            self.progress.commit(manifest.images, manifest.failed * manifest.images // max(1, manifest.rows))
            self.done(manifest)

    def _again(self, partition: Work, soon: bool = False) -> None:
        """Queue a partition again, unless it is done, queued already, or another replica has it."""
        if partition.id in self.left and not self.held[partition.id] and partition.id not in self.waiting:
            self.waiting.put(partition, soon)

    def _lost(self, member: Member, error: BaseException) -> None:
        """Handle a lost process: the partitions it was processing become suspects, unless its machine is known to be
        gone; results that it still had to write are made again."""
        many = len(member.work)
        partitions = member.take_all()
        running, idle = tuple(partitions[:many]), partitions[many:]
        for partition in partitions:
            self.held[partition.id] -= 1
        for partition in reversed(idle):
            self._again(partition, soon=True)
        self.metrics.lost.inc()
        self.progress.say(f"A replica was lost ({first_line(error)}); its work is handed out again.")
        member.lost_with.add(running[0].id)
        if getattr(error, "preempted", False) or isinstance(error, NodeDiedError):
            for partition in running:
                self._again(partition)
        else:
            self.suspects.append(Suspect(running, member, member.node))
        others = any(other.ready for other in self.crew.members if other is not member)
        if others and len(member.lost_with) >= LOADS:
            self.progress.say(f"It was lost with {LOADS} partitions in a row, so it is given up.")
            member.give_up(P2PZError(first_line(error)))
        else:
            member.load()

    def _judge(self) -> None:
        """Blame partitions for the loss of a replica if, and only if, its machine is alive."""
        if not self.suspects:
            return
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        suspects, self.suspects = self.suspects, []
        for suspect in suspects:
            member, node = suspect.member, suspect.node
            if node is not None and node not in alive:
                for partition in suspect.partitions:
                    self._again(partition)
            elif (member.ready and member.node == node) or time.monotonic() - suspect.since > SUSPICION:
                self._blame(suspect)
            else:
                self.suspects.append(suspect)

    def _blame(self, suspect: Suspect) -> None:
        if len(suspect.partitions) > 1:
            self.alone.update(partition.id for partition in suspect.partitions)
            for partition in suspect.partitions:
                self._again(partition)
            return
        [partition] = suspect.partitions
        deaths = self.deaths[partition.id] + 1
        if deaths > self.settings.max_task_retries and partition.id in self.left and not self.held[partition.id]:
            sentence = (
                f"The process that translated its partition died {count(deaths, 'time')}, so the partition is left out."
            )
            try:
                self._commit(partition, self.quarantine(partition, sentence))
            except FileError:
                raise
            except StorageError as error:
                self._outage_goes_on(first_line(error))
                self.suspects.append(suspect)
                return
        self.deaths[partition.id] = deaths
        self._again(partition)

    def _erred(self, member: Member, partition: Work, error: RayTaskError) -> None:
        cause, reason = error.cause, first_line(error.cause)
        if isinstance(cause, ConfigError) and not self._committed:
            raise ConfigError(str(cause)) from error
        if isinstance(cause, StorageError) and not isinstance(cause, FileError):
            self._storage_failed(member, partition, reason)
            return
        self.errors[partition.id] += 1
        if self.errors[partition.id] > self.settings.max_task_retries and not self.held[partition.id]:
            self.broken[partition.id] = reason
            self.left.pop(partition.id, None)
            self.waiting.discard(partition.id)
            self.progress.say(f"Partition {partition.id} is given up for this time ({reason}).")
        else:
            self._again(partition)

    def _storage_failed(self, member: Member, partition: Work, reason: str) -> None:
        """The storage failed, not the partition. The replica rests; it may have the pairs and need only write them."""
        self._outage_goes_on(reason)
        member.rested = time.monotonic() + STORAGE_REST * random.uniform(0.5, 1.5)
        if partition.id in self.left and not self.held[partition.id]:
            self.held[partition.id] += 1
            member.kept.append(partition)

    def _outage_goes_on(self, reason: str) -> None:
        """Stop the run if the storage has been unavailable for too long."""
        now = time.monotonic()
        if self._outage is None:
            self._outage = now
            self.progress.say(f"{reason}: it is tried again for {OUTAGE:.0f} s.")
        elif now - self._outage > OUTAGE:
            raise P2PZError(f"{reason}. What is committed stays: mend it, and the same command goes on from there.")

    # -------------------------------------------------------------------------------------------- stopping

    def _drain(self, until: float) -> None:
        """Handle what is finished by then, and start nothing."""
        for member in self.crew.members:
            for handed in list(member.work)[1:]:
                ray.cancel(handed.ref)
        self.progress.say("Stopping: what is being worked on has a moment to end.")
        while (remaining := until - time.monotonic()) > 0 and any(member.work for member in self.crew.members):
            self._collect(min(TICK, remaining))
