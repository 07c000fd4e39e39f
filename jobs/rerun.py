"""Measures the time that `inversion.cache` saves in a second run over the same images with other words.

    python jobs/rerun.py [--model mini] [--images 8] [--rounds 2]

A first run, cat to dog, keeps its inversions; then runs of cat to fox begin with them and without them by turns.
Evaluations are UNet passes of one picture, those of the map gradient counted as the forward passes alone.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmark import machine, seconds

from p2pz_ray.config import TranslateConfig
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.translator import Translator


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, help="by default the checkpoint's own")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    steps = "the checkpoint's own" if given.steps is None else given.steps
    print(f"{machine()}; torch {torch.__version__}; {given.images} images, {steps} steps, model {given.model}\n")
    print("| run | seconds an image | evaluations an image |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        write_world(f"{scratch}/world", given.images, 0, ("cat2dog",))
        _, asked = run(given, scratch, "dog", "dog", f"{scratch}/cache")
        print(f"| cat2dog, the first | – | {asked / given.images:.0f} |", flush=True)
        spent: dict[str, list[float]] = {"cache": [], "none": []}
        for round in range(given.rounds):
            for name, cache in (("cache", f"{scratch}/cache"), ("none", None)):
                took, asked = run(given, scratch, f"{name}{round}", "fox", cache)
                spent[name].append(took)
                label = "inversions from the cache" if cache else "inversions made again"
                print(f"| cat2fox, {label} | {took / given.images:.2f} | {asked / given.images:.0f} |", flush=True)
    saved = 1 - sum(spent["cache"]) / sum(spent["none"])
    print(f"\nThe cache saves {saved:.0%} of the time.")
    return 0


def run(given: argparse.Namespace, folder: str, name: str, target: str, cache: str | None) -> tuple[float, int]:
    """Translate the collection without Ray: the seconds it took and the pictures that the UNet was asked about."""
    inversion: dict[str, Any] = {"steps": given.steps, "cache": cache}
    config = TranslateConfig.model_validate(
        {
            "model": given.model,
            "input": {"uri": f"{folder}/world"},
            "edits": {"edit": {"source": "cat", "target": target}},
            "output": str(Path(folder, name)),
            "inversion": inversion,
        }
    )
    prepared = prepare(config)
    assert prepared is not None
    job, plan = prepared
    translator = Translator(job)
    asked = 0

    def count(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        nonlocal asked
        asked += len(args[0])

    translator.engine.editor.model.unet.register_forward_pre_hook(count)  # type: ignore[attr-defined]
    took = seconds(lambda: [translator.translate(partition) for partition in plan.partitions])
    return took, asked


if __name__ == "__main__":
    raise SystemExit(main())
