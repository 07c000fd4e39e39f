"""The replicas of a pool: loading their models, checking on them, and releasing them."""

import time
from collections.abc import Callable, Sequence
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

from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.running.member import Member
from p2pz_ray.running.progress import Progress

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""Ray's errors for a lost process or machine, as opposed to an error in our code."""
LOADS = 5
"""Times in a row that a replica may fail or die before its model is loaded; then it is given up, but not before
`LOADING` seconds."""
LOADING = 60.0
"""Seconds since the first failed load: while a lost machine is being replaced, loads fail several times in a row."""
UNPLACED, GIVEN_UP = 30.0, 1800.0
"""Seconds without a machine for any replica after which the user is told, and after which the run ends, or a replica is
given up for which Ray finds no other place than the one it had."""


class Crew:
    """The members of a pool. lacking: returns a sentence on the resources that no machine of the cluster has, or
    None."""

    def __init__(
        self, replicas: Sequence[Any], task: str, progress: Progress, lacking: Callable[[], str | None]
    ) -> None:
        self.members = [Member(actor, task) for actor in replicas]
        self.progress, self.lacking = progress, lacking
        self._loaded_once = False  # whether any replica was ever ready
        self._began, self._said_lacking = time.monotonic(), False

    def load(self) -> None:
        """Tell all members to load the model."""
        self._began = time.monotonic()
        for member in self.members:
            member.load()

    def hear(self, deadline: float) -> int:
        """Ask the replicas for their progress and show it; restart those without progress for `deadline` seconds; have
        failed ones load again. Returns the number of ready replicas."""
        now = time.monotonic()
        for member in self.members:
            member.hear()
            if member.stuck(deadline):
                self.progress.say(f"A replica has not moved for {deadline:g} s: it is started anew.")
                member.restart()
            if member.again is not None and member.again <= now:
                member.load()
        ready = [member for member in self.members if member.ready]
        self.progress.show(sum(member.underway for member in ready), len(ready))
        return len(ready)

    def check(self) -> None:
        """Raise if the run has no replica left, or will never get one."""
        alive = [member for member in self.members if not member.given_up]
        failures = [member.failure for member in self.members if member.failure is not None]
        if not self._loaded_once and failures and all(member.failure or not member.placed for member in alive):
            raise failures[0]  # a failure of the run's own, as far as anybody can tell
        if not alive:
            reason = f" ({first_line(failures[-1])})" if failures else ""
            raise P2PZError(f"All replicas are given up{reason}: see the messages above and Ray's logs.")
        waited = time.monotonic() - self._began
        if waited > UNPLACED and not any(member.placed for member in self.members):
            lacking = self.lacking()
            if lacking and waited > GIVEN_UP:
                raise P2PZError(f"{lacking} None has come within {GIVEN_UP / 60:.0f} min.")
            if lacking and not self._said_lacking:
                self._said_lacking = True
                self.progress.say(f"{lacking} The run waits {GIVEN_UP / 60:.0f} min for one to be added.")

    def take_load(self, member: Member) -> None:
        """Handle the result of a member's load, success or failure."""
        try:
            found = ray.get(member.loading)
        except LOST as error:
            failure = P2PZError(f"A replica died while it loaded the model: {_last_line(error)}.")
            if "creation task" in str(error):  # Ray could not create the actor, and won't try again
                self._give_up(member, P2PZError(f"A replica can't start on the cluster: {_last_line(error)}."))
            elif member.moved is None and time.monotonic() - member.trying < GIVEN_UP:
                member.wait()  # a lost machine is being replaced, which may take minutes
            elif member.loads >= LOADS and time.monotonic() - member.trying > LOADING:
                self._give_up(member, failure)
            else:
                if member.loads == 1:
                    self.progress.say(f"A replica died while it loaded the model ({first_line(error)}).")
                member.load()
            return
        except RayTaskError as error:
            kind = ConfigError if isinstance(error.cause, ConfigError) else P2PZError
            failure = kind(f"A replica can't load the model: {first_line(error.cause)}.")
            if member.loads >= LOADS:
                self._give_up(member, failure)
            else:
                member.failed(failure)
                if self._loaded_once and member.loads == 1:
                    self.progress.say(f"{failure} It will try again.")
            return
        self._loaded_once = True
        member.loaded(found.get("node"))

    def release(self, members: Sequence[Member]) -> None:
        """Release members for good."""
        refs = [handed.ref for member in members for handed in member.work]
        for member in members:
            member.release()
        self.members = [member for member in self.members if member not in members]
        if refs:  # copies of partitions that others finished first: none may write any more
            ray.wait(refs, num_returns=len(refs), timeout=30)

    def _give_up(self, member: Member, failure: Exception) -> None:
        if self._loaded_once:
            self.progress.say(f"{failure} It is given up, and the others go on.")
        member.give_up(failure)


def _last_line(error: BaseException) -> str:
    """The last line of an error's text, where tracebacks have their cause."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
