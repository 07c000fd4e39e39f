"""A cache of inversions: a run with other edits of the same images needs no new ones."""

import hashlib
import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from p2pz_ray.collection.table_format import UNREADABLE
from p2pz_ray.editing import Editor
from p2pz_ray.errors import first_line
from p2pz_ray.running.log import LOG
from p2pz_ray.storage.failure import StorageError
from p2pz_ray.storage.store import Store

VERSION = 1
ROWS = 8
"""Inversions per row group, which a reader holds in memory."""
SCHEMA = pa.schema([("key", pa.string()), ("sha256", pa.string()), ("trajectory", pa.binary())])

Trajectory = NDArray[np.float32]


class Inversions:
    """The inversions of one partition: from an earlier run's cache, and those that this run makes.

    CACHE/{partition}-{maker}.parquet holds a row for each image: `key` (see `key`), `trajectory` (the latents of all
    steps, float32, (N + 1, 4, h, w)) and its `sha256`. `maker` is a digest of the model and the inversion's settings.

    A cache never causes errors: inversions that are damaged, foreign or unreachable are logged and made again.

    editor: what makes them. size: (H, W) of the images in pixels.
    """

    def __init__(self, store: Store, partition: str, editor: Editor, size: tuple[int, int]) -> None:
        settings = editor.inverts
        assert settings.steps is not None
        dtype = str(editor.model.unet.dtype)
        maker = json.dumps([VERSION, editor.fingerprint, dtype, asdict(settings)], sort_keys=True)
        self.store, self.partition = store, partition
        self.path = f"{partition}-{hashlib.sha256(maker.encode()).hexdigest()[:16]}.parquet"
        height, width = (side // editor.model.factor for side in size)
        self.shape = (settings.steps + 1, int(editor.model.unet.config.in_channels), height, width)
        self.drawn = settings.regularization in ("sampled", "official")
        self.used = 0
        """Inversions that were taken from the cache."""
        self._held: dict[str, Trajectory] = {}
        self._fresh = False
        self._file: pq.ParquetFile | None = None
        self._rows: dict[str, tuple[int, int]] = {}  # key → row group, row in it
        self._group: tuple[int, pa.Table] | None = None
        try:
            if store.exists(self.path):
                self._open()
        except (*UNREADABLE, StorageError) as error:
            self._give_up(error)

    def key(self, pixels: NDArray[np.uint8], caption: str, seed: int) -> str:
        """A key of what an image's inversion depends on besides the maker: its pixels, its caption and, if shifts are
        drawn at random, its seed."""
        digest = hashlib.sha256(repr((pixels.shape, caption, seed if self.drawn else None)).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        return digest.hexdigest()

    def find(self, key: str) -> Trajectory | None:
        """The trajectory of a key, or None."""
        if key in self._held:
            return self._held[key]
        if key not in self._rows:
            return None
        try:
            found = self._read(*self._rows[key])
        except (*UNREADABLE, StorageError) as error:
            self._give_up(error)
            return None
        self.used += 1
        self._held[key] = found
        return found

    def add(self, key: str, trajectory: Trajectory) -> None:
        self._held[key] = trajectory
        self._fresh = True

    def keep(self) -> None:
        """Write the inversions for the next run if this one made any; log how many were taken from the cache."""
        if self.used:
            counts = {"partition": self.partition, "images": len(self._held), "cached": self.used}
            LOG.info("inversions taken from the cache", extra={"p2pz": counts})
        if not self._fresh:
            return
        rows: dict[str, list[Any]] = {"key": list(self._held), "sha256": [], "trajectory": []}
        for trajectory in self._held.values():
            data = trajectory.tobytes()
            rows["sha256"].append(hashlib.sha256(data).hexdigest())
            rows["trajectory"].append(data)
        buffer = io.BytesIO()
        # Not compressed: latents are mostly noise.
        pq.write_table(
            pa.table(rows, SCHEMA), buffer, row_group_size=ROWS, compression="none", use_dictionary=False,
            write_statistics=False,
        )  # fmt: skip
        try:
            self.store.write(self.path, buffer.getvalue())
        except StorageError as error:
            self._give_up(error)

    def _open(self) -> None:
        file = pq.ParquetFile(pa.PythonFile(self.store.open(self.path), mode="r"))
        if not file.schema_arrow.equals(SCHEMA):
            raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)}")
        for group in range(file.num_row_groups):
            for row, key in enumerate(file.read_row_group(group, ["key"])["key"].to_pylist()):
                self._rows[key] = (group, row)
        self._file = file

    def _read(self, group: int, row: int) -> Trajectory:
        assert self._file is not None
        if self._group is None or self._group[0] != group:
            self._group = (group, self._file.read_row_group(group))
        table = self._group[1]
        data = table["trajectory"][row].as_py()
        if hashlib.sha256(data).hexdigest() != table["sha256"][row].as_py():
            raise ValueError("a checksum is wrong")
        return np.frombuffer(data, np.float32).reshape(self.shape).copy()

    def _give_up(self, error: Exception) -> None:
        self._rows, self._group = {}, None
        said = f"The inversion cache can't be used, so its inversions are made again ({first_line(error)})."
        LOG.warning(said, extra={"p2pz": {"partition": self.partition, "file": self.store.name(self.path)}})
