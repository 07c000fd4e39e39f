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
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray_head import ENVIRONMENT
from ray_machines import WORKERS, Machines, machines
from tiny_job import committed_files, data_files, pairs_of, tiny_settings

from p2pz_ray.config import TranslateConfig
from p2pz_ray.translation.run import translate

pytestmark = [pytest.mark.faults, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("P2PZ_KILLS", "6"))


class Driver:
    def __init__(self, job: Path, log: Path) -> None:
        self.log = log.open("a")
        command = [sys.executable, "-m", "p2pz_ray.cli", "translate", str(job)]
        environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
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


def wreck(cluster: Machines, job: Path, run: Path, log: Path) -> dict[str, int]:
    """Kill at random, with at least one partition committed between two kills, then let a last driver finish."""
    chance, kills = random.Random(KILLS), Counter[str]()
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
            victims = cluster.replicas()
            if kind == "replica" and victims:
                with suppress(psutil.NoSuchProcess):
                    chance.choice(victims).kill()
            elif kind == "node":
                cluster.lose(chance.randrange(WORKERS))
            if kind == "driver" or driver.process.poll() is not None:
                driver.kill()
                driver = Driver(job, log)
            kills[kind] += kind != "replica" or bool(victims)
        assert kills.total() >= KILLS, f"the run ended after {kills}"
        assert driver.process.wait(timeout=1800) == 0, log.read_text()[-3000:]
    finally:
        driver.kill()
    return dict(kills)


def test_a_lost_machine_is_no_partitions_fault(tmp_path: Path, tiny_model: Path) -> None:
    """Not one more try is allowed here, so a partition that was blamed would become an error row."""
    run, log = tmp_path / "run", tmp_path / "drivers.log"
    settings = tiny_settings(tmp_path, tiny_model, images=12, per_partition=1)
    settings["replicas"] = {"min": 1, "max": 2, "max_task_retries": 0}
    settings["inversion"] = {"steps": 8}
    with machines() as cluster:
        job = tmp_path / "job.yaml"
        job.write_text(yaml.safe_dump(settings | {"ray": {"address": cluster.address}}))
        driver = Driver(job, log)
        try:
            while len(list(run.glob("manifest/*.json"))) < 2:
                assert driver.process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.05)
            cluster.lose(0)
            cluster.lose(0)  # the other one: both replicas are lost at once, each with a partition
            assert driver.process.wait(timeout=300) == 0, log.read_text()[-3000:]
        finally:
            driver.kill()
    assert "A replica was lost" in log.read_text()
    rows = pairs_of(run)
    assert len(rows) == 24
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_after_any_number_of_kills_every_pair_is_there_once_and_is_what_it_would_have_been(
    tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    run, log = tmp_path / "run", tmp_path / "drivers.log"
    with machines() as cluster:
        job = tmp_path / "job.yaml"
        job.write_text(yaml.safe_dump(settings_of(tmp_path, tiny_model, ray={"address": cluster.address})))
        print(f"killed: {wreck(cluster, job, run, log)}")
        assert not psutil.wait_procs(cluster.replicas(), timeout=60)[1]
    assert "Traceback" not in log.read_text()
    assert (run / "_SUCCESS").exists()
    assert data_files(run) == committed_files(run)
    request.getfixturevalue("local_ray")
    undisturbed = settings_of(tmp_path, tiny_model, output=str(tmp_path / "undisturbed"))
    translate(TranslateConfig.model_validate(undisturbed))
    pairs = pairs_of(run)
    ids = {f"cat-{i:05}" for i in range(3 * KILLS + 20)}
    assert set(pairs) == {(id, edit) for id in ids for edit in ("cat2dog", "cat2horse")}
    assert pairs == pairs_of(tmp_path / "undisturbed")
