"""Shipped configurations, run whole in a process of their own whose hub is the one that HF_ENDPOINT names.

    python tests/shipped_run.py FOLDER NAME …

FOLDER/cats holds the collection; FOLDER/sd15 and so on are written: those that are named by four replicas at once, the
others in this process. What replicas wrote of sd15 is evaluated.
"""

import sys
from pathlib import Path

from tiny_job import translated

import p2pz_ray
from p2pz_ray.config import TranslateConfig, load

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("sd15", "sd21", "sdxl", "sd-turbo")
SMALL = ["image.size=64", "device=cpu", "dtype=float32", "replicas={count: 4, cpus: 0.25}", "captions.column=null"]
EVALUATED = [f"{key}=null" for key in ("metrics.structure", "metrics.background", "metrics.accuracy", "masks.model")]


def main(folder: str, *by_replicas: str) -> None:
    for name in NAMES:
        file, output = str(CONFIGS / name / "cat2dog.yaml"), f"{folder}/{name}"
        steps = [] if name == "sd-turbo" else ["inversion.steps=2"]
        placed = [f"input.uri={folder}/cats", f"output={output}", "input.images_per_partition=1"]
        if name not in by_replicas:
            translated(load(file, [*SMALL, *steps, *placed], TranslateConfig).model_dump())
            continue
        done = p2pz_ray.translate(file, *SMALL, *steps, *placed)
        if name == "sd15":
            evaluated = str(CONFIGS / name / "evaluate-cat2dog.yaml")
            scored = p2pz_ray.evaluate(evaluated, f"run={output}", *EVALUATED, "report=false")
            assert scored.metrics["pairs"]["scored"] == done.ok, scored.metrics


if __name__ == "__main__":
    main(*sys.argv[1:])
