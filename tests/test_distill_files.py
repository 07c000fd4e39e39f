"""What ships for a distillation: configurations of the sizes they name, and a RayJob that is the translation's but for
what it runs."""

import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_cluster_files import CRDS, MANIFEST, closed, read

from p2pz_ray.config import load
from p2pz_ray.distill.condition import Condition
from p2pz_ray.distill.config import DistillConfig

ROOT = Path(__file__).parents[1]
JOB = ROOT / "cluster" / "rayjob-distill.yaml"


@pytest.mark.parametrize("size", [256, 512])
def test_the_configurations_of_real_sizes_are_the_papers(size: int) -> None:
    config = load(str(ROOT / f"configs/sd15/distill-cat2dog-{size}.yaml"), [], DistillConfig)
    assert config.image.size == (size, size)
    assert (config.training.batch, config.training.lr, config.pairs.max_pairs) == (64, 0.001, 15_000)
    assert (config.generator.base, config.generator.max, config.generator.code) == (32768, 512, 1024)
    assert config.pairs.filter is not None
    Condition(config.pairs.filter)


def test_the_miniatures_configuration_is_of_its_size_and_of_two_cores() -> None:
    config = load(str(ROOT / "configs/mini/distill-cat2dog.yaml"), [], DistillConfig)
    assert config.workers.bounds == (2, 2)
    assert config.perceptual is None


def test_the_manifest_is_a_rayjob_to_kuberay() -> None:
    if not CRDS.exists():
        pytest.skip(f"KubeRay's CRDs are not at {CRDS}")
    [version] = [version for version in read(CRDS)["spec"]["versions"] if version["name"] == "v1"]
    check = jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))
    assert [f"{error.json_path}: {error.message}" for error in check.iter_errors(read(JOB))] == []


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
    assert wanted.workers.bounds == tuple(sum(group[key] for group in groups) for key in ("minReplicas", "maxReplicas"))
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert wanted.workers.gpus == float(container["resources"]["limits"]["nvidia.com/gpu"])
        assert wanted.workers.cpus <= float(container["resources"]["limits"]["cpu"])
