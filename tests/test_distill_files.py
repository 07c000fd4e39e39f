"""What ships for a distillation: configurations of the sizes they name, and a RayJob that is the translation's but for
what it runs."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cluster_files import MANIFEST, kuberay, read

from p2pz_ray.config import load
from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.distill.condition import Condition
from p2pz_ray.distill.run import distill

ROOT = Path(__file__).parents[1]
JOB = ROOT / "cluster" / "rayjob-distill.yaml"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "official_pairs"


@pytest.mark.parametrize("size", [256, 512])
def test_the_configurations_of_real_sizes_are_the_papers(size: int) -> None:
    config = load(str(ROOT / f"configs/sd15/distill-cat2dog-{size}.yaml"), [], DistillConfig)
    assert config.image.size == (size, size)
    assert (config.training.batch, config.training.lr, config.pairs.max_pairs) == (64, 0.001, 15_000)
    assert (config.generator.base, config.generator.max, config.generator.code) == (32768, 512, 1024)
    assert config.pairs.filter is not None
    Condition(config.pairs.filter)


def test_the_miniatures_configuration_needs_neither_ray_nor_what_comes_by_another_package() -> None:
    config = load(str(ROOT / "configs/mini/distill-cat2dog.yaml"), [], DistillConfig)
    assert config.workers.bounds == (0, 0)
    assert config.perceptual is None
    assert config.pairs.filter is not None
    Condition(config.pairs.filter)


def test_the_authors_own_pairs_are_learned_by_heart_from_the_shipped_configuration(tmp_path: Path) -> None:
    """Three steps of it, at a quarter of the size: they lead from the sources towards the edited pictures."""
    pytest.importorskip("stlpips_pytorch")
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"The authors' pairs are not at {PHOTOGRAPHS}")
    made = [sys.executable, ROOT / "jobs/pairs.py", PHOTOGRAPHS, tmp_path / "pairs.parquet", "--only", "cat2dog_*"]
    subprocess.run(made, check=True)
    few = ["image.size=32", "generator.base=512", "training.steps=3", "training.checkpoint_every=3"]
    settings = [f"pairs.tables={tmp_path}/pairs.parquet", f"output={tmp_path}/out", *few]
    learned = distill(load(str(ROOT / "configs/mini/distill-overfit.yaml"), settings, DistillConfig))
    assert learned.held_out == 0
    assert 0 < learned.best["perceptual"] < learned.best["identity_perceptual"]


def test_the_manifest_is_a_rayjob_to_kuberay() -> None:
    assert [f"{error.json_path}: {error.message}" for error in kuberay("rayjob").iter_errors(read(JOB))] == []


def test_the_manifest_is_the_translations_but_for_its_name_and_what_it_runs() -> None:
    def shared(manifest: Any) -> Any:
        manifest["metadata"].pop("name")
        manifest["spec"].pop("entrypoint")
        return manifest

    assert shared(read(JOB)) == shared(read(MANIFEST))


def test_the_entrypoint_is_a_job_and_a_configuration_with_workers_as_the_machines_are() -> None:
    manifest = read(JOB)
    python, job, config, *settings = shlex.split(manifest["spec"]["entrypoint"])
    assert (python, job) == ("python", "/app/jobs/distill.py")
    wanted = load(str(ROOT / config.removeprefix("/app/")), settings, DistillConfig)
    groups = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert wanted.workers.bounds == (1, sum(group["maxReplicas"] for group in groups))
    assert [group["minReplicas"] for group in groups] == [0] * len(groups)  # no GPU is held before it is asked for
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert wanted.workers.gpus == float(container["resources"]["limits"]["nvidia.com/gpu"])
        assert wanted.workers.cpus <= float(container["resources"]["limits"]["cpu"])
