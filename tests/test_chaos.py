"""The promise of the whole: whatever is killed, as often as it may be, a last run leaves every pair exactly once.

P2PZ_KILLS=60 kills sixty times; left to itself the test is content with fewer.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray._private import ray_constants
from ray.cluster_utils import Cluster
from tiny_job import committed_files, data_files, pairs_of, tiny_settings

from p2pz_ray.config import TranslateConfig
from p2pz_ray.running.run import translate

pytestmark = [pytest.mark.faults, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("P2PZ_KILLS", "6"))
TOKEN = "0" * 32


class Machines:
    """A Ray cluster on loopback whose nodes, a head and two workers, are processes that can be killed."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            self.cluster.add_node(num_cpus=1)

    @property
    def address(self) -> str:
        return str(self.cluster.gcs_address)

    def processes(self) -> list[psutil.Process]:
        """Everything that the cluster has started, which names its session's folder or is named by Ray."""
        session = str(self.cluster.head_node.get_session_dir_path())
        return [process for process in psutil.process_iter() if session in _line(process) or self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return any(parent.pid in self._raylets() for parent in process.parents())
        return False

    def _raylets(self) -> set[int]:
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        return {info.process.pid for node in nodes for info in node.all_processes.get("raylet", [])}

    def replicas(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _line(process).startswith("ray::Replica")]

    def lose_a_node(self, chance: random.Random) -> None:
        """SIGKILL a worker node's raylet, with which its replicas end, and put another machine in its place."""
        node = chance.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id))
        node.all_processes["raylet"][0].process.kill()
        self.cluster.remove_node(node, allow_graceful=False)
        self.cluster.add_node(num_cpus=1, wait=False)


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # loopback alone
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    made = Machines()
    try:
        yield made
    finally:
        started = made.processes()
        made.cluster.shutdown()
        _, alive = psutil.wait_procs(started, timeout=60)
        for process in alive:
            process.kill()
        assert not alive, [_line(process) for process in alive]


class Driver:
    def __init__(self, job: Path, log: Path) -> None:
        self.log = log.open("a")
        command = [sys.executable, "-m", "p2pz_ray.cli", "translate", str(job)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=self.log, stderr=self.log, env=environment, start_new_session=True
        )

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def settings_of(folder: Path, model: Path, **more: Any) -> dict[str, Any]:
    settings = tiny_settings(folder, model, images=3 * KILLS + 20, per_partition=1) | more
    settings["replicas"] = {"min": 1, "max": 2, "max_task_retries": 1000}  # no partition is to blame here
    settings["inversion"] = {"steps": 8}
    return settings


def test_after_any_number_of_kills_every_pair_is_there_once_and_is_what_it_would_have_been(
    tmp_path: Path, tiny_model: Path, machines: Machines, request: pytest.FixtureRequest
) -> None:
    run, job, log = tmp_path / "run", tmp_path / "job.yaml", tmp_path / "drivers.log"
    job.write_text(yaml.safe_dump(settings_of(tmp_path, tiny_model, ray={"address": machines.address})))
    chance, kills = random.Random(KILLS), Counter()
    driver = Driver(job, log)

    def committed() -> int:
        return len(list(run.glob("manifest/*.json")))

    try:
        while kills.total() < KILLS and not (run / "_SUCCESS").exists():
            before, deadline = committed(), time.monotonic() + 300
            while committed() == before and driver.process.poll() is None:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 1.0))
            kind = chance.choices(("replica", "driver", "node"), (5, 3, 2))[0]
            if kind == "replica":
                victims = machines.replicas()
                if not victims:
                    continue
                with suppress(psutil.NoSuchProcess):
                    chance.choice(victims).kill()
            elif kind == "node":
                machines.lose_a_node(chance)
            if kind == "driver" or driver.process.poll() is not None:
                driver.kill()
                driver = Driver(job, log)
            kills[kind] += 1
        assert kills.total() >= KILLS, f"the run ended after {kills}"
        assert driver.process.wait(timeout=600) == 0, log.read_text()[-3000:]
    finally:
        driver.kill()
    print(f"killed: {dict(kills)}")
    assert "Traceback" not in log.read_text()
    _, alive = psutil.wait_procs(machines.replicas(), timeout=60)
    assert not alive
    assert (run / "_SUCCESS").exists()
    assert data_files(run) == committed_files(run)
    request.getfixturevalue("local_ray")
    undisturbed = settings_of(tmp_path, tiny_model, output=str(tmp_path / "undisturbed"))
    translate(TranslateConfig.model_validate(undisturbed))
    pairs = pairs_of(run)
    ids = {f"cat-{i:05}" for i in range(3 * KILLS + 20)}
    assert set(pairs) == {(id, edit) for id in ids for edit in ("cat2dog", "cat2horse")}
    assert pairs == pairs_of(tmp_path / "undisturbed")
