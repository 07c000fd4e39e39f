"""The judge: a classifier of scenes, trained apart from the generator and on other scenes.

For a picture it names the attributes of a scene: the animal, its coat, the ground … It scores generated pictures and
had no part in generating them. It knows nothing but the miniature world.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from p2pz_ray.mini.scene import CHOICES

FOLDER = Path(__file__).parent / "judge"
BATCH = 64


class Judge(nn.Module):
    """A residual convolutional network with one head for each attribute of `scene.CHOICES`.

    channels: of its stages; each stage has half the resolution of the one before.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128, 192)) -> None:
        super().__init__()
        self.channels = tuple(channels)
        stages: list[nn.Module] = []
        for before, width in zip((3, *channels), channels, strict=False):
            stages += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU(), Residual(width)]
        self.stages = nn.Sequential(*stages)
        self.heads = nn.ModuleDict({name: nn.Linear(channels[-1], len(found)) for name, found in CHOICES.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute, (B, options), for pictures of (B, 3, 64, 64) in -1 … 1."""
        features = self.stages(x).mean((2, 3))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def see(self, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The value of every attribute in each picture, (N, 64, 64, 3) uint8."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(images), BATCH):
            x = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).float() / 127.5 - 1
            best = {name: logits.argmax(1).tolist() for name, logits in self(x).items()}
            found += [{name: CHOICES[name][best[name][i]] for name in best} for i in range(len(x))]
        return found

    def save(self, folder: Path = FOLDER) -> None:
        """Write `config.json` and half-precision weights."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"channels": self.channels, "attributes": CHOICES}) + "\n")
        save_file(
            {name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors"
        )

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "Judge":
        """Read what `save` wrote. Raises FileNotFoundError where there is none."""
        judge = cls(tuple(json.loads((folder / "config.json").read_text())["channels"]))
        judge.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return judge.eval()


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))
