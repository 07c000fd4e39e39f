"""Checkpoints of a training at any fsspec URI: OUTPUT/checkpoints/step-00001000.pt, each written in one piece."""

import io
import re
from typing import Any

import torch

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.errors import P2PZError, first_line

_NAME = re.compile(r"step-(\d{8,})\.pt")


class Checkpoints:
    """The newest `keep` checkpoints of a training."""

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self._store, self._keep = folder.store, keep

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return sorted(int(found[1]) for found in map(_NAME.fullmatch, self._store.list("checkpoints")) if found)

    def name(self, step: int) -> str:
        """The full name, for messages."""
        return self._store.name(_path(step))

    def save(self, step: int, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._store.write(_path(step), buffer.getvalue())
        for old in self.steps()[: -self._keep]:
            self._store.remove(_path(old))

    def load(self, step: int, device: torch.device | str) -> dict[str, Any]:
        """Raises P2PZError for a file that is no checkpoint."""
        data = self._store.read(_path(step))
        try:
            state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        except Exception as error:  # torch and pickle raise nearly every kind of exception for a damaged file
            raise P2PZError(
                f"{self.name(step)} is not a readable checkpoint ({first_line(error)}): remove it, and the training "
                "goes on from the one before."
            ) from None
        return dict(state)


def _path(step: int) -> str:
    return f"checkpoints/step-{step:08}.pt"
