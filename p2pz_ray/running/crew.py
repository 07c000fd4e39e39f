"""The replicas of a pool: told to load their model, heard, and let go."""

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
"""What Ray raises where a process or a machine is gone, and not where our code went wrong."""
LOADS = 5
"""Times in a row that a replica may fail or die before its model is loaded; then it is given up, but not sooner than"""
LOADING = 60.0  # seconds after the first
UNPLACED, GIVEN_UP = 30.0, 1800.0
"""Seconds after which it is said that no machine has what a replica asks for, and after which a run ends for that,
or a replica is given up for which Ray finds no other place than the one that it had."""


class Crew:
    """The members of a pool. lacking: says what no machine of the cluster has of what a replica asks for, None where
    one has all."""

    def __init__(
        self, replicas: Sequence[Any], task: str, progress: Progress, lacking: Callable[[], str | None]
    ) -> None:
        self.members = [Member(actor, task) for actor in replicas]
        self.progress, self.lacking = progress, lacking
        self._loaded_once = False  # whether any replica ever was ready
        self._began, self._said_lacking = time.monotonic(), False

    def load(self) -> None:
        """Have all of them load the model."""
        self._began = time.monotonic()
        for member in self.members:
            member.load()

    def hear(self, deadline: float) -> int:
        """Hear how far the replicas are, show it, end those that don't move for `deadline` seconds, and have those that
        failed try again; returns how many are ready."""
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
        """End the run where it has no replica any more, or never will have one."""
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
        """Take in what a member's load came to, well or badly."""
        try:
            found = ray.get(member.loading)
        except LOST as error:
            failure = P2PZError(f"A replica died while it loaded the model: {_last_line(error)}.")
            if "creation task" in str(error):  # not a death: Ray could not even make the actor, and will not try again
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
        """Let go of members for good."""
        refs = [handed.ref for member in members for handed in member.work]
        for member in members:
            member.release()
        self.members = [member for member in self.members if member not in members]
        if refs:  # copies of partitions that others were faster with: none may write any more
            ray.wait(refs, num_returns=len(refs), timeout=30)

    def _give_up(self, member: Member, failure: Exception) -> None:
        if self._loaded_once:
            self.progress.say(f"{failure} It is given up, and the others go on.")
        member.give_up(failure)


def _last_line(error: BaseException) -> str:
    """Where Python and Ray have the cause in a traceback's text."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
