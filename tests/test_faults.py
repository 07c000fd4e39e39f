"""What a run promises when processes are killed under it. Everything here kills real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from tiny_job import committed_files, data_files, pairs_of, tiny_config, tiny_settings, translated

from p2pz_ray.collection.partition import Partition
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig
from p2pz_ray.translation import replica as replica_module
from p2pz_ray.translation.replica import Replica
from p2pz_ray.translation.run import translate

pytestmark = [pytest.mark.faults, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas can't import this file


class SuddenDeath(Replica):
    """Dies by SIGKILL in the middle of its first partition, once."""

    def translate(self, partition: Partition) -> Manifest:
        mark = Path(self.job.config.output, "died")
        if not mark.exists():
            mark.touch()
            self.load()
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            time.sleep(60)
        return super().translate(partition)


class Poisoned(Replica):
    """Dies of the first partition in the plan, every time."""

    def translate(self, partition: Partition) -> Manifest:
        plan = self.job.folder.plan()
        assert plan is not None
        if partition.id == plan.partitions[0].id:
            with Path(self.job.config.output, "deaths").open("a") as deaths:
                deaths.write("x")
            # What it finished just before is told to the driver meanwhile: unheard, that would be blamed first.
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().translate(partition)


def test_a_killed_replica_costs_nothing_but_time(
    tmp_path: Path, tiny_model: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "Replica", SuddenDeath)
    summary = translate(tiny_config(tmp_path, tiny_model))
    assert (tmp_path / "run" / "died").exists()
    assert (summary.ok, summary.failed) == (12, 0)
    assert len(pairs_of(tmp_path / "run")) == 12
    assert data_files(tmp_path / "run") == committed_files(tmp_path / "run")


def test_a_partition_that_kills_its_replica_each_time_becomes_error_rows(
    tmp_path: Path, tiny_model: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "Replica", Poisoned)
    settings = tiny_settings(tmp_path, tiny_model)
    settings["replicas"] = {"count": 1, "max_task_retries": 1}
    summary = translate(TranslateConfig.model_validate(settings))
    assert (tmp_path / "run" / "deaths").read_text() == "xxx"  # once beside another, and twice alone
    assert (summary.images, summary.ok, summary.failed) == (6, 8, 4)
    rows = pairs_of(tmp_path / "run")
    assert len(rows) == 12
    for (id, _), row in rows.items():
        if id in ("cat-00000", "cat-00001"):
            assert row["status"] == "error"
            assert row["error"].startswith("The process that translated its partition died 2 times")
            assert row["edited_image"] is None
        else:
            assert row["status"] == "ok"


# ------------------------------------------------------------------------------------------- the driver is killed


class Driver:
    """`p2pz translate` in a session of its own, so that all it leaves behind can be found."""

    def __init__(self, config: Path) -> None:
        self.log = config.with_suffix(".log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "p2pz_ray.cli", "translate", str(config)],
            cwd=ROOT,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def left(self) -> list[int]:
        """Living processes of the driver's session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it ended meanwhile
                    continue
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def wait_for(self, run: Path, manifests: int) -> None:
        """Until so many partitions are committed; fails where the driver ended before."""
        while len(list(run.glob("manifest/*.json"))) < manifests:
            assert self.process.poll() is None, "the driver ended before it could be killed"
            time.sleep(0.02)

    def end(self) -> None:
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.log.close()


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        driver.end()


needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found by way of /proc")


def write_job(folder: Path, model: Path, output: str) -> Path:
    settings = tiny_settings(folder, model, images=12, per_partition=1) | {"output": str(folder / output)}
    settings["inversion"] = {"steps": 6}
    file = folder / f"{output}.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@needs_proc
def test_a_driver_killed_twice_ends_with_the_pairs_of_an_undisturbed_run(
    tmp_path: Path, tiny_model: Path, drivers: list[Driver]
) -> None:
    job, run = write_job(tmp_path, tiny_model, "run"), tmp_path / "run"
    for committed in (2, 5):
        drivers.append(Driver(job))
        drivers[-1].wait_for(run, committed)
        drivers[-1].process.kill()
        drivers[-1].end()
        assert not (run / "_SUCCESS").exists()
        assert len(committed_files(run)) < 12
    kept = committed_files(run)
    drivers.append(Driver(job))
    assert drivers[-1].process.wait(timeout=300) == 0
    assert (run / "_SUCCESS").exists()
    assert kept < committed_files(run) == data_files(run)
    pairs = pairs_of(run)
    assert set(pairs) == {(f"cat-{i:05}", edit) for i in range(12) for edit in ("cat2dog", "cat2horse")}
    undisturbed = write_job(tmp_path, tiny_model, "undisturbed")
    assert pairs == translated(yaml.safe_load(undisturbed.read_text()))


@needs_proc
def test_sigterm_ends_a_driver_with_143_and_says_that_the_command_goes_on(
    tmp_path: Path, tiny_model: Path, drivers: list[Driver]
) -> None:
    job, run = write_job(tmp_path, tiny_model, "run"), tmp_path / "run"
    drivers.append(Driver(job))
    drivers[-1].wait_for(run, 1)
    drivers[-1].process.send_signal(signal.SIGTERM)
    assert drivers[-1].process.wait(timeout=60) == 143
    said = job.with_suffix(".log").read_text()
    assert "of 12 partitions done: the same command goes on from there." in said
    assert "Traceback" not in said
    assert not (run / "_SUCCESS").exists()


@needs_proc
def test_two_drivers_of_which_one_is_killed_end_with_one_correct_run(
    tmp_path: Path, tiny_model: Path, drivers: list[Driver]
) -> None:
    job, run = write_job(tmp_path, tiny_model, "run"), tmp_path / "run"
    drivers += [Driver(job), Driver(job)]
    drivers[0].wait_for(run, 3)
    drivers[0].process.kill()
    drivers[0].end()
    assert drivers[1].process.wait(timeout=300) == 0
    assert (run / "_SUCCESS").exists()
    translate(TranslateConfig.model_validate(yaml.safe_load(job.read_text())))  # finds nothing to do, and tidies up
    assert data_files(run) == committed_files(run)
    assert set(pairs_of(run)) == {(f"cat-{i:05}", edit) for i in range(12) for edit in ("cat2dog", "cat2horse")}
