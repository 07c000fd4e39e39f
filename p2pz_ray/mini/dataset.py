"""Collections of the miniature world: held-out scenes with their captions, masks and exact counterfactuals."""

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from PIL import Image

from p2pz_ray.collection.codec import encode
from p2pz_ray.collection.schema import collection_schema, table_bytes
from p2pz_ray.collection.store import Store
from p2pz_ray.errors import ConfigError
from p2pz_ray.mini.world import KINDS, Scene, caption, render, sample_scene

ROWS_PER_FILE = 1000


def parse_edit(name: str) -> tuple[str, str]:
    """("cat", "dog") from "cat2dog". Raises ConfigError for what the world can't draw."""
    source, _, target = name.partition("2")
    if source not in KINDS or target not in KINDS or source == target:
        raise ConfigError(
            f"The edit {name!r} is not one of the world's: write KIND2KIND with two of {', '.join(KINDS)}."
        )
    return source, target


def write_world(uri: str, count: int, seed: int, edits: tuple[str, ...] = ("cat2dog",), size: int = 64) -> str:
    """Write `count` scenes that no training has seen as a Parquet collection; returns the folder's URI.

    Scenes show the source animals of `edits` in turn ("cat2dog": a cat, whose `truth_cat2dog` shows the dog; null for
    scenes of another animal). Pictures are size × size pixels. The same arguments give the same collection.
    """
    kinds: Mapping[str, tuple[str, str]] = {edit: parse_edit(edit) for edit in edits}
    sources = list(dict.fromkeys(source for source, _ in kinds.values()))
    rng = np.random.default_rng(seed)
    schema = collection_schema(edits, mask=True, scene=True)
    store = Store(uri)
    if store.list():
        raise ConfigError(f"{uri} holds files already: choose another folder for the collection.")
    for start in range(0, count, ROWS_PER_FILE):
        rows = []
        for number in range(start, min(count, start + ROWS_PER_FILE)):
            kind = sources[number % len(sources)]
            scene = sample_scene(rng, held_out=True, kind=kind)
            rows.append(_row(f"{kind}-{number:05}", scene, rng, kinds, size))
        table = pa.Table.from_pylist(rows, schema)
        store.write(f"scenes-{start // ROWS_PER_FILE:04}.parquet", table_bytes(table))
    return uri


def _row(
    id: str, scene: Scene, rng: np.random.Generator, kinds: Mapping[str, tuple[str, str]], size: int
) -> dict[str, object]:
    pixels, mask = render(scene, size)
    row: dict[str, object] = {
        "id": id,
        "image": {"bytes": encode(pixels), "path": f"{id}.png"},
        "caption": caption(scene, rng),
        "mask": {"bytes": _mask_png(mask), "path": f"{id}-mask.png"},
        "scene": scene.to_json(),
    }
    for edit, (source, target) in kinds.items():
        truth = None
        if scene.kind == source:
            counterfactual, _ = render(scene.with_(kind=target), size)
            truth = {"bytes": encode(counterfactual), "path": f"{id}-{edit}.png"}
        row[f"truth_{edit}"] = truth
    return row


def _mask_png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()
