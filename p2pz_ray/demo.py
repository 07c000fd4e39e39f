"""`p2pz demo`: the embedded miniature from a collection to a report, on this machine and without a network."""

import time
from pathlib import Path

import pyarrow.parquet as pq

from p2pz_ray.config import TranslateConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.report.report import write_report
from p2pz_ray.report.sheet import write_sheet
from p2pz_ray.running.progress import duration
from p2pz_ray.translation.run import translate

COUNT = 16
REPLICAS = 2
BATCH = 4
"""Images per batch and per partition: few, so that the bar moves and both replicas end at the same time."""


def demo(out: str = "demo", count: int = COUNT) -> str:
    """Make a small collection of cats, translate them into dogs with two replicas, and write a report; prints what it
    does and what to try next. Returns the report's path. Raises ConfigError where `out` holds something else.
    """
    began = time.monotonic()
    world, run = Path(out, "world"), Path(out, "run")
    there = _scenes(world)
    if there == 0:
        write_world(str(world), count, seed=0, edits=("cat2dog",))
        print(f"1. Drew {count} scenes of cats, with captions, masks and the true dogs: {world}")
    elif there == count:
        print(f"1. {world} has its {count} scenes already")
    else:
        raise ConfigError(f"{out} holds a demo of {there} images: choose another --out, or --count {there}.")
    config = TranslateConfig.model_validate(
        {
            "input": {"uri": str(world), "images_per_partition": BATCH},
            "edits": {"cat2dog": {"source": "cat", "target": "dog"}},
            "output": str(run),
            "batch_size": BATCH,
            "replicas": {"count": REPLICAS},
        }
    )
    print("2. Turning cats into dogs: a direction from 1,000 sentences per word, two replicas on Ray")
    summary = translate(config)
    print(f"   {summary}")
    report = write_report(str(run), truth_uri=str(world))
    write_sheet(str(run), str(world), str(Path(out, "sheet.png")))
    print(f"3. Wrote the report: {report}")
    print(
        f"\nDone in {duration(time.monotonic() - began)}. Open {report} to see source | edited | truth side by side.\n"
        "Try next:\n"
        f"  p2pz status {run}\n"
        "  p2pz world runs/horses --count 32 --seed 1 --edit horse2zebra\n"
        "  p2pz translate configs/mini/horse2zebra.yaml input.uri=runs/horses\n"
        "  p2pz translate configs/mini/cat2dog.yaml input.uri=FOLDER      # with images of your own"
    )
    return report


def _scenes(world: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in world.glob("*.parquet"))
