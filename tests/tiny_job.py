"""A small translation for the tests of running: a few miniature scenes through a model of random weights."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import TranslateConfig
from p2pz_ray.mini.dataset import write_world
from p2pz_ray.translation.prepare import prepare
from p2pz_ray.translation.translator import Translator

Row = dict[str, Any]


def tiny_settings(folder: Path, model: Path, images: int = 6, per_partition: int = 2) -> dict[str, Any]:
    """A configuration of `images` scenes, written below `folder`, with two edits; output is `folder`/run."""
    world = folder / "world"
    if not world.exists():
        write_world(str(world), images, seed=3)
    return {
        "model": str(model),
        "input": {"uri": str(world), "images_per_partition": per_partition},
        "edits": {
            "cat2dog": {"source": "cat", "target": "dog", "count": 8},
            "cat2horse": {"source": "cat", "target": "horse", "count": 8, "strength": 0.5},
        },
        "output": str(folder / "run"),
        "inversion": {"steps": 2},
        "batch_size": 2,
        "replicas": {"count": 1},
    }


def tiny_config(folder: Path, model: Path, **options: int) -> TranslateConfig:
    return TranslateConfig.model_validate(tiny_settings(folder, model, **options))


def translated(given: dict[str, Any]) -> dict[tuple[str, str], Row]:
    """The pairs of a configuration's run, made in this process, without Ray."""
    prepared = prepare(TranslateConfig.model_validate(given))
    assert prepared is not None
    job, plan = prepared
    translator = Translator(job)
    for partition in plan.partitions:
        translator.translate(partition)
    return pairs_of(given["output"])


def pairs_of(run: Path | str) -> dict[tuple[str, str], Row]:
    """(id, edit) → row, of all that the run's manifests name; fails where a pair is there twice."""
    folder = RunFolder(str(run))
    plan = folder.plan()
    assert plan is not None
    found: dict[tuple[str, str], Row] = {}
    for manifest in folder.manifests(plan.ids).values():
        for row in pq.read_table(Path(run, manifest.file)).to_pylist():
            assert (row["id"], row["edit"]) not in found
            found[row["id"], row["edit"]] = row
    return found


def data_files(run: Path | str) -> set[str]:
    return {f"data/{file.name}" for file in Path(run, "data").iterdir()}


def committed_files(run: Path | str) -> set[str]:
    folder = RunFolder(str(run))
    plan = folder.plan()
    assert plan is not None
    return {manifest.file for manifest in folder.manifests(plan.ids).values()}
