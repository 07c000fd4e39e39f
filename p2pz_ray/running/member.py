"""One replica as the driver sees it: its actor, what was handed to it, and when it last moved."""

import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from p2pz_ray.running.waiting import Work

BACK_OFF = 10.0
"""Seconds after which a replica that couldn't load is told to try again, give or take half; doubled each time."""


@dataclass(eq=False)
class Handed:
    """A partition that a replica has, since when it is the oldest one there."""

    ref: Any
    partition: Work
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Member:
    """A replica of a pool.

    task: the name of the actor's method that works a partition off.
    work: what was handed to it, in order; the oldest is being worked on. kept: what it could not read or write while
    the storage was away, and will be handed again when it has rested, until `rested` (`time.monotonic`).
    node: where it was loaded. lost_with: ids of the partitions with which it was lost since it last did one.
    loading: the reference of its `load`, until that is done. loads, trying: tries of it in a row, and since when.
    again: when to try next, after one that failed. failure: why it failed. given_up: that it won't be tried any more;
    it keeps its place in the cluster, so that no other replica is put where this one couldn't work.
    underway: images of the oldest partition that are done. moved: when it last gave a sign of life
    (`time.monotonic`), None while it waits for a place in the cluster.
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
        """Have the model loaded, in the process that stands or in one that Ray starts in its place."""
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
        """It could not load, and will try again after a while."""
        self.loading, self.failure = None, failure
        self.again = time.monotonic() + BACK_OFF * 2 ** (self.loads - 1) * random.uniform(0.5, 1.5)

    def give_up(self, failure: Exception) -> None:
        self.ready, self.loading, self.again, self.failure, self.given_up = False, None, None, failure, True

    def hand(self, partition: Work) -> None:
        if not self.work:
            self.moved = time.monotonic()
        self.work.append(Handed(getattr(self.actor, self.task).remote(partition), partition))

    def take(self, ref: Any) -> Handed:
        """What was handed out under `ref`, which is over."""
        handed = next(handed for handed in self.work if handed.ref is ref)
        self.work.remove(handed)
        # What it was asked before may be answered of the partition that is over now: that would count it twice.
        self.underway, self.moved, self._asked = 0, time.monotonic(), None
        if self.work:
            self.work[0].since = self.moved
        return handed

    def take_all(self) -> list[Work]:
        """All its work, oldest first, of a replica that is gone."""
        partitions = [*(handed.partition for handed in self.work), *self.kept]
        self.work.clear()
        self.kept.clear()
        self.underway = 0
        return partitions

    def hear(self) -> None:
        """Ask how far it is, and take in the last answer; that one can't answer shows elsewhere."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            with suppress(Exception):
                underway = ray.get(self._asked)
                if underway != self.underway or self.moved is None:
                    self.underway, self.moved = underway, time.monotonic()
            self._asked = None
        if self._asked is None and (self.work or self.loading is not None):
            self._asked = self.actor.underway.remote()

    def stuck(self, deadline: float) -> bool:
        """Whether it has had something to do for so many seconds without a sign of getting on."""
        busy = bool(self.work) or self.loading is not None
        return busy and self.moved is not None and time.monotonic() - self.moved > deadline

    def restart(self) -> None:
        """End its process; what it had comes back as lost, and Ray starts another process."""
        self.moved = None
        ray.kill(self.actor, no_restart=False)

    def release(self) -> None:
        """End it for good."""
        ray.kill(self.actor, no_restart=True)
