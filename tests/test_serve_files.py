"""The files that put a service on a cluster: each is what its reader takes, and none leaves a door open."""

from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from test_cluster_files import CLUSTER, IMAGE, kuberay, read

from p2pz_ray.config.serve import ServeConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.serving import deployment

MANIFEST = CLUSTER / "rayservice.yaml"


def deployed(file: str) -> Any:
    """What Serve is told by a file: itself, or the text that KubeRay hands on."""
    found = read(CLUSTER / file)
    return yaml.safe_load(found["spec"]["serveConfigV2"]) if "spec" in found else found


def test_the_manifest_is_a_rayservice_to_kuberay() -> None:
    validator = kuberay("rayservice")
    manifest = read(MANIFEST)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)] == []
    manifest["spec"]["upgradeStrategy"]["typ"] = "None"
    assert not validator.is_valid(manifest)


@pytest.mark.parametrize("file", ["rayservice.yaml", "serve.yaml"])
def test_serve_takes_the_file_and_each_application_is_a_service_with_a_token(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = ServeDeploySchema.model_validate(deployed(file))
    for application in schema.applications:
        module, _, name = application.import_path.partition(":")
        assert (module, name) == (deployment.__name__, deployment.application.__name__)
        config = ServeConfig.model_validate(application.args)
        assert config.token_env == "P2PZ_TOKEN"
        assert config.model.name == "mini" or len(config.model.revision or "") == 40
        assert config.model.name == "mini" or (config.replicas.gpus, config.device) == (1, "cuda")
    with pytest.raises(ValueError, match="import_pat"):
        ServeDeploySchema.model_validate({"applications": [{"import_pat": "x"}]})


def test_a_deployed_service_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="token_env"):
        deployment.application({"model": "mini"})


def test_the_manifest_agrees_with_itself() -> None:
    manifest = read(MANIFEST)
    cluster = manifest["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    [application] = deployed("rayservice.yaml")["applications"]
    [workers] = cluster["workerGroupSpecs"]
    replicas = ServeConfig.model_validate(application["args"]).replicas
    assert replicas.bounds == (workers["minReplicas"], workers["maxReplicas"])
    for group in (cluster["headGroupSpec"], workers):
        [container] = group["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
        assert container["securityContext"]["runAsNonRoot"]
        assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "p2pz-token"
        assert {"name": "serve", "containerPort": 8000} in container["ports"]
    assert replicas.cpus <= float(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
