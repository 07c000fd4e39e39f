"""Shipped configurations, run whole in a process of their own whose hub is the one that HF_ENDPOINT names.

    python tests/shipped_run.py FOLDER CONFIG …     translated by four replicas at once, and of sd15 also evaluated

FOLDER/cats holds the collection; FOLDER/CONFIG is written.
"""

import sys
from pathlib import Path

import p2pz_ray

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ["image.size=64", "device=cpu", "dtype=float32", "replicas={count: 4, cpus: 0.25}", "captions.column=null"]
EVALUATED = [f"{key}=null" for key in ("metrics.structure", "metrics.background", "metrics.accuracy", "masks.model")]


def main(folder: str, *names: str) -> None:
    for name in names:
        file, output = CONFIGS / name / "cat2dog.yaml", f"{folder}/{name}"
        steps = [] if name == "sd-turbo" else ["inversion.steps=2"]
        placed = [f"input.uri={folder}/cats", f"output={output}", "input.images_per_partition=1"]
        done = p2pz_ray.translate(str(file), *SMALL, *steps, *placed)
        assert done.failed == 0, done
        if name == "sd15":
            scored = p2pz_ray.evaluate(
                str(CONFIGS / name / "evaluate-cat2dog.yaml"), f"run={output}", *EVALUATED, "report=false"
            )
            assert scored.metrics["pairs"]["scored"] == done.ok, scored.metrics


if __name__ == "__main__":
    main(*sys.argv[1:])
