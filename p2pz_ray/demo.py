"""`p2pz demo`: the embedded miniature from a collection to a report, on this machine and without a network."""

import time
from pathlib import Path

import pyarrow.parquet as pq

from p2pz_ray.commit.run import Run
from p2pz_ray.config import TranslateConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.report.report import write_report
from p2pz_ray.report.sheet import write_sheet
from p2pz_ray.running.cluster import connected
from p2pz_ray.running.progress import duration
from p2pz_ray.translation.run import translate

COUNT = 16
REPLICAS = 2
BATCH = 4
"""Images per batch and per partition: few, so that the bar moves and both replicas end at the same time."""


def demo(out: str = "demo", count: int = COUNT) -> str:
    """Make a small collection of cats, translate them into dogs by the editor and by its student, and write a report;
    prints what it does and what to try next. Returns the report's path. Raises ConfigError where `out` holds something
    else.
    """
    began = time.monotonic()
    world, run, student = Path(out, "world"), Path(out, "run"), Path(out, "student")
    there = _scenes(world)
    if there == 0:
        write_world(str(world), count, seed=0, edits=("cat2dog",))
        print(f"1. Drew {count} scenes of cats, with captions, masks and the true dogs: {world}")
    elif there == count:
        print(f"1. {world} has its {count} scenes already")
    else:
        raise ConfigError(f"{out} holds a demo of {there} images: choose another --out, or --count {there}.")
    common = {
        "input": {"uri": str(world), "images_per_partition": BATCH},
        "edits": {"cat2dog": {"source": "cat", "target": "dog"}},
        "batch_size": BATCH,
    }
    config = TranslateConfig.model_validate({**common, "replicas": {"count": REPLICAS}, "output": str(run)})
    taught = TranslateConfig.model_validate({**common, "student": "mini", "output": str(student)})
    with connected(config):
        print("2. Turning cats into dogs: a direction from 1,000 sentences per word, two replicas on Ray")
        print(f"   {translate(config)}")
        print("3. The same by the miniature's student, a small network that learned the edit from such pairs")
        print(f"   {translate(taught)}")
    slow, fast = _model_seconds(run), _model_seconds(student)
    print(f"   The editor computed for {slow:.1f} s, the student for {fast:.2f} s: {slow / fast:,.0f} times as fast.")
    report = write_report(str(run), truth_uri=str(world), student_uri=str(student))
    write_sheet(str(run), str(world), str(Path(out, "sheet.png")))
    print(f"4. Wrote the report: {report}")
    print(
        f"\nDone in {duration(time.monotonic() - began)}. Open {report} to see source, edit, truth and student.\n"
        "Try next:\n"
        f"  p2pz status {run}\n"
        "  p2pz world runs/horses --count 32 --seed 1 --edit horse2zebra\n"
        "  p2pz translate configs/mini/horse2zebra.yaml input.uri=runs/horses\n"
        "  p2pz translate configs/mini/cat2dog.yaml input.uri=FOLDER      # with images of your own"
    )
    return report


def _scenes(world: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in world.glob("*.parquet"))


def _model_seconds(run: Path) -> float:
    """How long the replicas of a run were computing, together."""
    return sum(manifest.seconds["model"] for manifest in Run(str(run)).manifests)
