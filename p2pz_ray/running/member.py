"""One replica as the driver sees it: its actor, what was handed to it, and when it last moved."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray

from p2pz_ray.collection.partition import Partition


@dataclass(eq=False)
class Handed:
    """A partition that a replica has, since when it is the oldest one there."""

    ref: Any
    partition: Partition
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Member:
    """A replica of a pool.

    work: what was handed to it, in order; the oldest is being worked on.
    loading: the reference of its `load`, until that is done. loads, trying: tries of it in a row, and since when.
    underway: images of the oldest partition that are done. moved: when it last gave a sign of getting on
    (`time.monotonic`), None while it waits for a place in the cluster.
    """

    actor: Any
    work: deque[Handed] = field(default_factory=deque)
    loading: Any = None
    loads: int = 0
    trying: float = 0.0
    underway: int = 0
    moved: float | None = None
    _asked: Any = None

    @property
    def ready(self) -> bool:
        return self.loading is None

    @property
    def idle(self) -> bool:
        return self.ready and not self.work

    def load(self) -> None:
        """Have the model loaded, in the process that stands or in one that Ray starts in its place."""
        self.trying = self.trying if self.loads else time.monotonic()
        self.loads += 1
        self.loading, self.moved, self._asked = self.actor.load.remote(), None, None

    def loaded(self) -> None:
        self.loading, self.loads = None, 0

    def hand(self, partition: Partition) -> None:
        if not self.work:
            self.moved = time.monotonic()
        self.work.append(Handed(self.actor.translate.remote(partition), partition))

    def take(self, ref: Any) -> Handed:
        """What was handed out under `ref`, which is over."""
        handed = next(handed for handed in self.work if handed.ref is ref)
        self.work.remove(handed)
        self.underway, self.moved = 0, time.monotonic()
        if self.work:
            self.work[0].since = self.moved
        return handed

    def take_all(self) -> list[Partition]:
        """All its work, oldest first, of a replica that is gone."""
        partitions = [handed.partition for handed in self.work]
        self.work.clear()
        self.underway = 0
        return partitions

    def hear(self) -> None:
        """Ask how far it is, and take in the last answer; that one can't answer shows elsewhere."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            try:
                underway = ray.get(self._asked)
            except Exception:
                underway = 0
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
