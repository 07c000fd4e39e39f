"""TensorBoard and Weights & Biases, where they are switched on: losses, scores and sheets of a training."""

import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import record
from p2pz_ray.config.distill import DistillConfig, TrainingConfig
from p2pz_ray.errors import ConfigError

SHEET = "source, teacher, student"


class Board:
    """Sends a training's figures to the boards that are switched on.

    TensorBoard's event files are written on this machine's disk and copied whole to OUTPUT/tensorboard, since object
    stores can't append. Weights & Biases reads the machine's environment (WANDB_API_KEY, WANDB_MODE); a resumed
    training is the same run there.
    """

    def __init__(self, folder: RunFolder, config: DistillConfig) -> None:
        check_boards(config.training)
        self._store = folder.store
        self._scratch = tempfile.TemporaryDirectory(prefix="p2pz-board-")
        self._writer: Any = None
        self._run: Any = None
        if config.training.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._scratch.name)
        if config.training.wandb is not None:
            import wandb  # type: ignore[import-not-found, unused-ignore]

            self._run = wandb.init(
                project=config.training.wandb,
                id=hashlib.sha256(config.output.encode()).hexdigest()[:16],
                resume="allow",
                config=record(config),
                dir=self._scratch.name,
            )
            self._picture = wandb.Image

    def losses(self, step: int, means: dict[str, float]) -> None:
        self._add("loss", step, means)

    def scores(self, step: int, scores: dict[str, float], sheet: NDArray[np.uint8]) -> None:
        self._add("scores", step, scores)
        if self._writer is not None:
            self._writer.add_image(SHEET, sheet, step, dataformats="HWC")
        if self._run is not None:
            self._run.log({SHEET: self._picture(sheet)}, step=step)

    def put(self) -> None:
        """Copy TensorBoard's event files to the output."""
        if self._writer is not None:
            self._writer.flush()
            for file in Path(self._scratch.name).glob("events.*"):
                self._store.write(f"tensorboard/{file.name}", file.read_bytes())

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _add(self, group: str, step: int, values: dict[str, float]) -> None:
        named = {f"{group}/{name}": value for name, value in values.items()}
        if self._writer is not None:
            for name, value in named.items():
                self._writer.add_scalar(name, value, step)
        if self._run is not None and named:
            self._run.log(named, step=step)


def check_boards(config: TrainingConfig) -> None:
    """Raise ConfigError where a board that is switched on isn't installed."""
    for name, wanted in (("tensorboard", config.tensorboard), ("wandb", config.wandb is not None)):
        if wanted and importlib.util.find_spec(name) is None:
            raise ConfigError(f"training.{name} is set, but {name} isn't installed: pip install {name}.")
