"""A collection of tars in a bucket, translated by drivers that are killed: every sample once.

P2PZ_TAR_IMAGES is how many each of the ten tars holds.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from s3_server import s3_server
from small_run import examples
from test_faults import Driver, needs_proc
from tiny_job import committed_files, data_files, pairs_of, tiny_settings

from p2pz_ray.collection import Store, encode

pytestmark = [pytest.mark.faults, pytest.mark.slow]
TARS, EACH = 10, int(os.environ.get("P2PZ_TAR_IMAGES", 6))


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        driver.end()


@needs_proc
def test_tars_in_a_bucket_are_translated_exactly_once_though_drivers_are_killed(
    tmp_path: Path, tiny_model: Path, drivers: list[Driver]
) -> None:
    scenes = examples(TARS * EACH)
    with s3_server() as options:
        for shard in range(TARS):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for scene in scenes[shard * EACH : (shard + 1) * EACH]:
                    for part, data in (("png", encode(scene.picture())), ("txt", f"a cat, {scene.id}".encode())):
                        member = tarfile.TarInfo(f"{scene.id}.{part}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
            Store("s3://bucket/cats", options).write(f"{shard:05}.tar", buffer.getvalue())
        settings = tiny_settings(tmp_path, tiny_model, per_partition=EACH)
        settings["input"] = {"uri": "s3://bucket/cats", "images_per_partition": EACH, "storage_options": options}
        # What is looked at is reading and committing: the cheapest edit will do.
        settings |= {"inversion": {"steps": 2, "regularization": "none"}, "guidance": {"lambda_xa": 0, "cfg": 1}}
        settings["batch_size"] = 4
        job, run = tmp_path / "job.yaml", tmp_path / "run"
        job.write_text(yaml.safe_dump(settings))
        for committed in (2, 5):
            drivers.append(Driver(job))
            drivers[-1].wait_for(run, committed)
            drivers[-1].process.kill()
            drivers[-1].end()
            assert not (run / "_SUCCESS").exists()
        drivers.append(Driver(job))
        assert drivers[-1].process.wait(timeout=300 + TARS * EACH) == 0
    assert committed_files(run) == data_files(run)
    pairs = pairs_of(run)
    assert {id for id, _ in pairs} == {f"{i // EACH:05}.tar/{scene.id}" for i, scene in enumerate(scenes)}
    assert len(pairs) == 2 * TARS * EACH
    assert all(row["status"] == "ok" and row["caption"].endswith(id[10:]) for (id, _), row in pairs.items())
    assert f"{TARS * EACH:,} images in {TARS} tars" in job.with_suffix(".log").read_text()
