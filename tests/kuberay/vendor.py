"""Writes the schemas beside this file from KubeRay's own custom resource definitions (v1.7.0, Apache License 2.0):

    python tests/kuberay/vendor.py ray.io_rayjobs.yaml ray.io_rayservices.yaml

They lie in helm-chart/kuberay-operator/crds of https://github.com/ray-project/kuberay. Descriptions, which are most of
them and say nothing to a validator, are left out.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml


def bare(schema: Any) -> Any:
    """Without descriptions; a property of that name stays."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: bare(part) for key, part in schema.items() if not (key == "description" and isinstance(part, str))}


def main(files: list[str]) -> None:
    for file in files:
        found = yaml.load(Path(file).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        [version] = [version for version in found["versions"] if version["name"] == "v1"]
        text = json.dumps(bare(version["schema"]["openAPIV3Schema"]), sort_keys=True, separators=(",", ":"))
        out = Path(__file__).with_name(f"{found['names']['singular']}.json.gz")
        out.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(sys.argv[1:])
