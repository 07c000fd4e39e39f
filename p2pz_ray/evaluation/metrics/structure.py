"""Structure distance: how much the layout of two pictures differs, whatever their appearance.

    d(x, y) = mean over i, j of (S_ij(x) - S_ij(y))²        S_ij: cosine of the features at positions i and j

With a DINO ViT the features are the keys of the last layer, all heads concatenated, of all tokens with the class token
(Tumanyan et al., "Splicing ViT Features for Semantic Appearance Transfer", CVPR 2022); the paper takes ViT-B/8 at 224
px. Numbers of other networks are not comparable, so their columns have other names.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTModel

from p2pz_ray.evaluation.metrics.metric import Pair, Pixels, Scores, resized, unit
from p2pz_ray.language.checkpoint import load_pretrained

SIDE, LARGEST = 224, 480
"""The shorter side of DINO's input in pixels, and the limit of the longer."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StructureDistance:
    """features: (B, 3, H, W) in 0 … 1 → (B, N, D). column: the score's name; made_by: its description."""

    def __init__(self, features: Callable[[Tensor], Tensor], column: str, made_by: str, *, device: str = "cpu") -> None:
        self._features, self.column, self._made_by, self.device = features, column, made_by, device

    @property
    def columns(self) -> Mapping[str, str]:
        return {self.column: self._made_by}

    @torch.no_grad()
    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        source, edited = (self.similarity([getattr(p, side) for p in pairs]) for side in ("source", "edited"))
        return {self.column: apart(source, edited).tolist()}

    @torch.no_grad()
    def similarity(self, pictures: Sequence[Pixels]) -> Tensor:
        """(B, N, N): the self-similarities of B pictures of one size."""
        return self_similarity(self._features(unit(pictures).to(self.device)))


def apart(x: Tensor, y: Tensor) -> Tensor:
    """The mean squared difference of self-similarities (…, N, N), broadcast: (…)."""
    return (x - y).square().mean((-2, -1))


def self_similarity(features: Tensor) -> Tensor:
    """(B, N, D) → (B, N, N) cosines."""
    length = features.norm(dim=2, keepdim=True)
    return features @ features.transpose(1, 2) / (length @ length.transpose(1, 2)).clamp(min=1e-8)


def dino(
    model: str, revision: str | None = None, scale: Literal["0-1", "0-255"] = "0-1", device: str = "cpu"
) -> StructureDistance:
    """The paper's distance with a ViT's folder or hub id, such as facebook/dino-vitb8.

    scale: "0-255" does the same as PnPInversion's evaluation, which gives the model pixels in 0 … 255 although it
    expects 0 … 1. Such scores can be compared only with tables made in that way. Raises ConfigError if there is no such
    ViT.
    """
    vit = load_pretrained(ViTModel, model, revision, "metrics.structure.model").to(device).float().eval()
    vit.requires_grad_(False)
    column = "structure_distance" if scale == "0-1" else "structure_distance_255"
    keys = _Keys(vit, 255.0 if scale == "0-255" else 1.0)
    return StructureDistance(keys, column, f"{model}, keys of the last layer, pixels {scale}", device=device)


class _Keys:
    """Last-layer keys, (B, N, D), of pictures in 0 … 1."""

    def __init__(self, vit: ViTModel, scale: float) -> None:
        self._vit, self._scale = vit, scale
        self._own = int(vit.config.image_size)  # 224 for every published DINO
        self._kept: list[Tensor] = []
        vit.layers[-1].attention.k_proj.register_forward_hook(lambda _, __, found: self._kept.append(found))

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        short, long = min(height, width), max(height, width)
        side = min(self._own, LARGEST * short // long)
        size = [max(self._vit.config.patch_size, n * side // short) for n in (height, width)]
        x = resized(x * self._scale, (size[0], size[1]))
        mean, std = (x.new_tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
        self._kept.clear()
        self._vit(pixel_values=(x - mean) / std, interpolate_pos_encoding=True)
        return self._kept.pop()


def cells(maps: Tensor) -> Tensor:
    """A convolutional network's maps, (B, D, h, w), as features of h·w positions, each channel minus its mean."""
    places = maps.flatten(2).transpose(1, 2)
    return F.layer_norm(places, places.shape[-1:])
