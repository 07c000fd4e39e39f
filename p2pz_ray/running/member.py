"""One replica as the driver sees it: its actor, its work, and its last sign of progress."""

import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from p2pz_ray.running.backlog import Work

BACK_OFF = 10.0
"""Seconds before a replica that couldn't load tries again, plus or minus half; doubled each time."""


@dataclass(eq=False)
class Handed:
    """A partition that a replica has, and the time since which it is the replica's oldest."""

    ref: Any
    partition: Work
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Member:
    """A replica of a pool.

    task: the name of the actor's method that processes a partition.
    work: its partitions in order; the oldest is being processed. kept: partitions that it could not read or write
    during an outage of the storage, to be handed to it again after its rest, which lasts until `rested`.
    node: where it loaded its model. lost_with: ids of the partitions that it had when it was lost, since it last
    finished one. loading: the reference of its `load` while that runs. loads, trying: number of attempts in a row, and
    the time of the first. again: time of the next attempt after a failed one. failure: why it failed. given_up: whether
    it won't be tried any more; it keeps its place in the cluster, so that no other replica is put there.
    underway: images of the oldest partition that are done. moved: time of the last sign of progress, None while it
    waits for a place in the cluster. All times are `time.monotonic()`.
    """

    actor: Any
    task: str = "translate"
    work: deque[Handed] = field(default_factory=deque)
    kept: deque[Work] = field(default_factory=deque)
    rested: float = 0.0
    node: str | None = None
    lost_with: set[str] = field(default_factory=set)
    ready: bool = False
    loading: Any = None
    loads: int = 0
    trying: float = 0.0
    again: float | None = None
    failure: Exception | None = None
    given_up: bool = False
    underway: int = 0
    moved: float | None = None
    _asked: Any = None

    @property
    def idle(self) -> bool:
        return self.ready and not self.work and not self.kept

    @property
    def placed(self) -> bool:
        """Whether it has found a place in the cluster."""
        return self.moved is not None or self.failure is not None

    def load(self) -> None:
        """Start loading the model, in its process or in the one that Ray starts as a replacement."""
        self.trying = self.trying if self.loads else time.monotonic()
        self.loads += 1
        self.wait()

    def wait(self) -> None:
        """The same where it hasn't tried yet, since it had no process: Ray looks for a place for it."""
        self.ready, self.again = False, None
        self.loading, self.moved, self._asked = self.actor.load.remote(), None, None

    def loaded(self, node: str | None) -> None:
        self.ready, self.loading, self.loads, self.failure, self.node = True, None, 0, None, node

    def failed(self, failure: Exception) -> None:
        """Note a failed load, to be tried again after a while."""
        self.loading, self.failure = None, failure
        self.again = time.monotonic() + BACK_OFF * 2 ** (self.loads - 1) * random.uniform(0.5, 1.5)

    def give_up(self, failure: Exception) -> None:
        self.ready, self.loading, self.again, self.failure, self.given_up = False, None, None, failure, True

    def hand(self, partition: Work) -> None:
        if not self.work:
            self.moved = time.monotonic()
        self.work.append(Handed(getattr(self.actor, self.task).remote(partition), partition))

    def take(self, ref: Any) -> Handed:
        """Remove and return the partition of `ref`, whose task has ended."""
        handed = next(handed for handed in self.work if handed.ref is ref)
        self.work.remove(handed)
        # A pending answer about progress may be for the partition that just ended and would count it twice.
        self.underway, self.moved, self._asked = 0, time.monotonic(), None
        if self.work:
            self.work[0].since = self.moved
        return handed

    def take_all(self) -> list[Work]:
        """Remove and return all work of a lost replica, oldest first."""
        partitions = [*(handed.partition for handed in self.work), *self.kept]
        self.work.clear()
        self.kept.clear()
        self.underway = 0
        return partitions

    def hear(self) -> None:
        """Ask for its progress, and read the last answer; a lost replica is noticed elsewhere."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            with suppress(Exception):
                underway = ray.get(self._asked)
                if underway != self.underway or self.moved is None:
                    self.underway, self.moved = underway, time.monotonic()
            self._asked = None
        if self._asked is None and (self.work or self.loading is not None):
            self._asked = self.actor.underway.remote()

    def stuck(self, deadline: float) -> bool:
        """Whether it has had work for `deadline` seconds without a sign of progress."""
        busy = bool(self.work) or self.loading is not None
        return busy and self.moved is not None and time.monotonic() - self.moved > deadline

    def restart(self) -> None:
        """Kill its process. Its work is then reported as lost, and Ray starts another process."""
        self.moved = None
        ray.kill(self.actor, no_restart=False)

    def release(self) -> None:
        """End it for good."""
        ray.kill(self.actor, no_restart=True)
