"""Collections of the miniature world: held-out scenes with their captions, masks and exact counterfactuals."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from p2pz_ray.collection.schema import collection_schema, table_bytes
from p2pz_ray.errors import ConfigError
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.world import Scene, caption, outline, render, sample_scene
from p2pz_ray.picture.codec import encode
from p2pz_ray.storage.store import Store

ROWS_PER_FILE = 1000


def write_world(uri: str, count: int, seed: int, edits: tuple[str, ...] = ("cat2dog",), size: int = 64) -> str:
    """Write `count` scenes that no training has seen as a Parquet collection; returns the folder's URI.

    The edits take turns: each scene is one that its edit can start from. The column `truth_cat2dog` holds the dog for
    scenes with a cat, and null for others; `sketch_cat2dog` that dog's outline, white on black. Pictures are size ×
    size pixels. The same arguments give the same collection. Raises ConfigError for an edit that the world doesn't
    have, or a folder that holds files already.
    """
    parsed = [WorldEdit.parse(edit) for edit in edits]
    rng = np.random.default_rng(seed)
    schema = collection_schema(edits, mask=True, scene=True, sketches=True)
    store = Store(uri)
    if store.list():
        raise ConfigError(f"{uri} holds files already: choose another folder for the collection.")
    for start in range(0, count, ROWS_PER_FILE):
        rows = []
        for number in range(start, min(count, start + ROWS_PER_FILE)):
            scene = sample_scene(rng, held_out=True, **parsed[number % len(parsed)].before)
            rows.append(_row(f"{scene.kind}-{number:05}", scene, rng, parsed, size))
        table = pa.Table.from_pylist(rows, schema)
        store.write(f"scenes-{start // ROWS_PER_FILE:04}.parquet", table_bytes(table))
    return uri


def _row(id: str, scene: Scene, rng: np.random.Generator, edits: Sequence[WorldEdit], size: int) -> dict[str, object]:
    pixels, mask = render(scene, size)
    row: dict[str, object] = {
        "id": id,
        "image": {"bytes": encode(pixels), "path": f"{id}.png"},
        "caption": caption(scene, rng),
        "mask": {"bytes": _mask_png(mask), "path": f"{id}-mask.png"},
        "scene": scene.to_json(),
    }
    for edit in edits:
        after = edit.truth(scene) if edit.fits(scene) else None
        drawn = (None, None) if after is None else (render(after, size)[0], outline(after, size))
        for name, picture in zip(("truth", "sketch"), drawn, strict=True):
            path = f"{id}-{name}-{edit.name}.png"
            row[f"{name}_{edit.name}"] = None if picture is None else {"bytes": encode(picture), "path": path}
    return row


def _mask_png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()
