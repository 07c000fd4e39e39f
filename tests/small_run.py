"""A run's folder and the miniature collection it was made of, written by hand for the tests of evaluation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.collection.schema import collection_schema, pairs_schema, table_bytes
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.mini.world import Scene, render, sample_scene
from p2pz_ray.picture.codec import encode

TARGETS = {"cat2dog": "dog", "cat2horse": "horse"}


@dataclass(frozen=True)
class Example:
    """A scene of the collection with its pictures, (H, W, 3) uint8."""

    id: str
    scene: Scene

    def picture(self, kind: str = "cat") -> np.ndarray:
        return render(self.scene.with_(kind=kind))[0]

    def mask(self, kind: str = "cat") -> np.ndarray:
        return render(self.scene.with_(kind=kind))[1]


def examples(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [Example(f"scene-{i:03}", sample_scene(rng, kind="cat")) for i in range(count)]


def moved(pixels: np.ndarray, levels: int) -> np.ndarray:
    """Every value changed by so many grey levels, towards the middle."""
    return np.where(pixels > 127, pixels - levels, pixels + levels).astype(np.uint8)


def camouflaged() -> tuple[Example, np.ndarray]:
    """A scene whose dog covers, beside the cat, pixels that look as they did without it; and those, (H, W) bool."""
    for example in examples(200):
        same = (example.picture() == example.picture("dog")).all(axis=2)
        hidden = same & example.mask("dog") & ~example.mask("cat")
        if hidden.any():
            return example, hidden
    raise AssertionError("the world has no such scene")


def write_truth(path: Path, scenes: Sequence[Example], edits: Sequence[str] = ("cat2dog",), mask: bool = True) -> None:
    rows = []
    for example in scenes:
        row: dict[str, Any] = {"id": example.id, "image": image(example.picture()), "caption": "a cat"}
        if mask:
            row["mask"] = image(np.repeat(example.mask()[..., None], 3, axis=2).astype(np.uint8) * 255)
            row["scene"] = example.scene.to_json()
        row |= {f"truth_{edit}": image(example.picture(TARGETS[edit])) for edit in edits}
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(table_bytes(pa.Table.from_pylist(rows, collection_schema(edits, mask, scene=mask))))


def image(pixels: np.ndarray | bytes | None) -> dict[str, Any] | None:
    if pixels is None:
        return None
    return {"bytes": pixels if isinstance(pixels, bytes) else encode(pixels), "path": None}


def pair(
    id: str,
    source: np.ndarray | None = None,
    edited: np.ndarray | bytes | None = None,
    *,
    edit: str = "cat2dog",
    status: str = "ok",
    error: str | None = None,
    caption: str | None = "a cat",
) -> dict[str, Any]:
    """A row of a run; without pictures give its status and error."""
    return {
        "id": id,
        "edit": edit,
        "status": status,
        "error": error,
        "source_image": image(source),
        "edited_image": image(edited),
        "caption": caption,
        "seed": 7,
    }


def write_run(
    folder: Path,
    partitions: Sequence[Sequence[dict[str, Any]]],
    *,
    planned: int | None = None,
    complete: bool = True,
    edits: Sequence[str] = ("cat2dog",),
    config: Mapping[str, Any] | None = None,
    times: Sequence[tuple[float, float]] = (),
) -> None:
    """A run of `planned` partitions (as many as are given, unless more), of which the given ones are done."""
    planned = planned or len(partitions)
    rows = [len({row["id"] for row in pairs}) for pairs in partitions]
    rows += [rows[0] if rows else 1] * (planned - len(rows))
    plan = Plan(
        tuple(
            Partition.of("parquet", [Source("in.parquet", "1-a", None, piece=i, stop=count)])
            for i, count in enumerate(rows)
        )
    )
    record = {
        "model": {"name": "mini"},
        "input": {"uri": "in.parquet"},
        "edits": {name: {"source": "cat", "target": TARGETS[name]} for name in edits},
        **(config or {}),
    }
    for name in ("data", "manifest"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "config.yaml").write_text(yaml.safe_dump(record, allow_unicode=True))
    for i, (partition, pairs) in enumerate(zip(plan.partitions, partitions, strict=False)):
        file = f"data/{partition.id}-1.parquet"
        (folder / file).write_bytes(table_bytes(pa.Table.from_pylist(list(pairs), pairs_schema())))
        count = [row["status"] for row in pairs].count
        started, finished = times[i] if times else (0.0, 0.0)
        manifest = Manifest(
            partition=partition.id,
            attempt="1",
            file=file,
            images=rows[i],
            rows=len(pairs),
            ok=count("ok"),
            failed=count("error"),
            sha256="",
            fingerprint="",
            started=started,
            finished=finished,
        )
        (folder / f"manifest/{partition.id}.json").write_text(json.dumps(asdict(manifest)))
    if complete:
        (folder / "_SUCCESS").write_text("{}")
