"""A contact sheet of a run as one PNG: sources in the first row, edits below them, the truth below those."""

import io
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.commit.run import Run
from p2pz_ray.evaluation.metrics.truth import Truth
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.storage.store import Store

GAP = 4  # white pixels between two pictures


def write_sheet(run_uri: str, truth_uri: str, uri: str, count: int = 6, side: int = 112) -> None:
    """Write the first `count` ok pairs that have a truth, in the run's order; each picture is `side` pixels wide."""
    columns = list(islice(_columns(Run(run_uri), Truth(truth_uri)), count))
    rows = [_row(pictures, side) for pictures in zip(*columns, strict=True)]
    picture = Image.fromarray(np.concatenate(rows)[GAP:, GAP:])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    folder, _, name = uri.rpartition("/")
    Store(folder or ".").write(name, buffer.getvalue())


def _columns(run: Run, truth: Truth) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Source, edit and truth of each ok pair that has a truth, read one by one."""
    for manifest in run.manifests:
        for batch in run.batches(manifest, ["id", "edit", "status", "source_image", "edited_image"]):
            for row in batch.to_pylist():
                right = truth.picture(row["id"], row["edit"]) if row["status"] == "ok" else None
                if right is not None:
                    yield row["source_image"]["bytes"], row["edited_image"]["bytes"], right


def _row(pictures: Sequence[bytes], side: int) -> NDArray[np.uint8]:
    policy = DecodePolicy((side, side))
    tiles = [np.pad(decode(p, policy), ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(tiles, axis=1)
