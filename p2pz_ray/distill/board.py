"""TensorBoard, where it is asked for: losses, held-out scores and sheets, below OUTPUT/tensorboard."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.collection.manifest import RunFolder
from p2pz_ray.errors import ConfigError


class Board:
    """Event files are written on this machine's disk and put beside the checkpoints whole, since no object store can
    append. Does nothing unless `wanted`."""

    def __init__(self, folder: RunFolder, wanted: bool) -> None:
        self._store = folder.store
        self._writer: Any = None
        if wanted:
            check_board()
            from torch.utils.tensorboard import SummaryWriter

            self._scratch = tempfile.TemporaryDirectory(prefix="p2pz-board-")
            self._writer = SummaryWriter(self._scratch.name)

    def losses(self, step: int, means: dict[str, float]) -> None:
        self._add("loss", step, means)

    def scores(self, step: int, scores: dict[str, float], sheet: NDArray[np.uint8]) -> None:
        self._add("held out", step, scores)
        if self._writer is not None:
            self._writer.add_image("source, teacher, student", sheet, step, dataformats="HWC")

    def put(self) -> None:
        if self._writer is None:
            return
        self._writer.flush()
        for file in Path(self._scratch.name).iterdir():
            self._store.write(f"tensorboard/{file.name}", file.read_bytes())

    def _add(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)


def check_board() -> None:
    """Raise ConfigError where TensorBoard isn't installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("training.tensorboard is set, but TensorBoard isn't installed: pip install tensorboard.")
