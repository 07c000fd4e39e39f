"""What a run promises where its storage fails: an S3 that answers 500, 503, late, or breaks off; a full disk."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from faulty_s3 import KINDS, faulty_s3
from tiny_job import committed_files, data_files, pairs_of, tiny_settings, translated

from p2pz_ray.cli import main
from p2pz_ray.config import TranslateConfig
from p2pz_ray.running import pool
from p2pz_ray.storage.store import Store
from p2pz_ray.translation.run import translate

pytestmark = [pytest.mark.faults, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


def test_a_run_from_and_to_an_s3_whose_tenth_request_fails_is_complete_and_exact(
    tmp_path: Path, tiny_model: Path, local_ray: None
) -> None:
    settings = tiny_settings(tmp_path, tiny_model, images=12, per_partition=2)
    undisturbed = translated(settings)
    with faulty_s3(share=0.1, seed=4) as (options, direct, faults):
        for file in sorted((tmp_path / "world").iterdir()):
            Store("s3://bucket/world", direct).write(file.name, file.read_bytes())
        there: dict[str, Any] = {
            "input": {"uri": "s3://bucket/world", "images_per_partition": 2, "storage_options": options},
            "output": "s3://bucket/run",
            "output_storage_options": options,
        }
        summary = translate(TranslateConfig.model_validate(settings | there))
        assert (summary.images, summary.ok, summary.failed) == (12, 24, 0)
        assert sum(faults.met[kind] for kind in KINDS) >= 5, faults.met
        run = Store("s3://bucket/run", direct)
        assert run.exists("_SUCCESS")
        rows = [row for name in run.list("data") for row in pq.read_table(_file(run, name)).to_pylist()]
        assert len(rows) == 24
        assert {(row["id"], row["edit"]): row for row in rows} == undisturbed


def _file(run: Store, name: str) -> io.BytesIO:
    return io.BytesIO(run.read(f"data/{name}"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_up_stops_the_run_in_one_sentence_and_with_space_it_goes_on_to_the_same_pairs(
    tmp_path: Path,
    tiny_model: Path,
    small_disk: Path,
    local_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = tiny_settings(tmp_path, tiny_model, images=16, per_partition=2)
    undisturbed = translated(settings)
    filling = settings | {"output": str(small_disk / "run")}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(filling))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(_room(small_disk) - 150_000))
    with monkeypatch.context() as impatient:
        impatient.setattr(pool, "OUTAGE", pool.OUTAGE / 300)
        impatient.setattr(pool, "STORAGE_REST", pool.STORAGE_REST / 10)
        code = main(["translate", str(job)])
    said = capsys.readouterr().err
    *_, last = said.strip().splitlines()
    assert code == 1, said
    assert last.startswith("p2pz: ")
    assert "No space left on device" in last
    assert "the same command goes on from there" in last
    kept = committed_files(small_disk / "run")
    assert 0 < len(kept) < 8
    assert not (small_disk / "run" / "_SUCCESS").exists()
    ballast.unlink()
    assert translate(TranslateConfig.model_validate(filling)).ok == 32
    assert pairs_of(small_disk / "run") == undisturbed
    assert kept < committed_files(small_disk / "run") == data_files(small_disk / "run")


def _room(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_an_output_that_can_not_be_written_is_refused_in_one_sentence_before_ray_starts(
    tmp_path: Path, tiny_model: Path, small_disk: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(tiny_settings(tmp_path, tiny_model) | {"output": str(small_disk / "run")}))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = [sys.executable, "-m", "p2pz_ray.cli", "translate", str(job)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("p2pz: ")]
    assert "Read-only file system" in line
    assert "Traceback" not in ended.stderr
