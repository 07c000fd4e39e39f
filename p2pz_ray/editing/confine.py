"""Masks of where an edit belongs, found from the model itself before the edit.

Pixels of the object attend to the source words in the caption (Hertz et al. 2023). If a caption lacks them, the mask is
where ε with the direction differs from ε without it (LEDITS++, Brack et al. 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from p2pz_ray.editing.direction import EditDirection
from p2pz_ray.editing.inversion import Inversion
from p2pz_ray.editing.model import DiffusionModel
from p2pz_ray.editing.passes import Passes
from p2pz_ray.editing.settings import GuidanceSettings
from p2pz_ray.editing.text import Condition

LOOKS = (0.0, 0.1, 0.2)
"""The steps of the inversion at which maps are taken, as shares of it from the clean end: on the miniature's cats and
horses, later steps gave worse masks."""
COLOUR, NEAR, ROUNDS = 0.06, 0.2, 2
"""Smoothing of the heat map: standard deviations in colour (0 … 1) and in distance (share of the longer side), and the
number of rounds. Chosen on 32 cats and 32 horses of the miniature."""
GRID = 64 * 64
"""Largest number of cells that are smoothed."""


@dataclass(frozen=True)
class Wanted:
    """The tokens of an edit's source words: none if its direction doesn't record its words."""

    words: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: DiffusionModel, direction: EditDirection) -> "Wanted":
        tokenizer = model.text.tokenizers[0]
        said = _sources(direction.provenance)
        return cls(tuple(tuple(tokenizer(word, add_special_tokens=False).input_ids) for word in said))

    def places(self, tokens: Sequence[int]) -> list[int]:
        """The positions of the words among a caption's tokens; words that it lacks have none."""
        found: set[int] = set()
        for word in self.words:
            for at in range(len(tokens) - len(word) + 1):
                if word and tuple(tokens[at : at + len(word)]) == word:
                    found |= set(range(at, at + len(word)))
        return sorted(found)


def confined(
    model: DiffusionModel,
    inversion: Inversion,
    directions: Condition,
    wanted: Sequence[Wanted],
    settings: GuidanceSettings,
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Where B inverted images may change under K directions: (B, K, H, W), 0 or 1.

    The heat map is the mean of attention over heads, layers, tokens and steps. It is coarse, so it is smoothed among
    cells that are near each other and alike in colour. It is cut at Otsu's threshold, or at
    `settings.confine_threshold` between an image's minimum and maximum, and widened by `settings.confine_widen` pixels.
    An image's masks don't depend on other images.
    """
    B, K = len(inversion.c), len(directions)
    told = model.text.tokenizers[0](list(inversion.captions), truncation=True, max_length=model.text.tokens).input_ids
    places = [[each.places(tokens) for each in wanted] for tokens in told]
    heat = _attended(model, inversion, places, settings)
    lacking = [(i, k) for i in range(B) for k in range(K) if not places[i][k]]
    if lacking:
        differing = _differing(model, inversion, directions)
        for i, k in lacking:
            heat[i, k] = differing[i, k]
    assert inversion.images is not None
    masks = np.stack(
        [_cut(picture, each.cpu(), settings) for picture, each in zip(inversion.images, heat, strict=True)]
    )
    inside = torch.from_numpy(masks)
    for _ in range(settings.confine_widen):
        inside = F.max_pool2d(inside, 3, stride=1, padding=1)
    return np.asarray(inside.numpy(), np.float32)


def _cut(picture: NDArray[np.uint8], heat: Tensor, settings: GuidanceSettings) -> NDArray[np.float32]:
    """The masks of one picture from its heat (K, h, w): (K, H, W), 0 or 1."""
    H, W = picture.shape[:2]
    zoom = min(2.0, (GRID / (heat.shape[1] * heat.shape[2])) ** 0.5)
    grid = (round(heat.shape[1] * zoom), round(heat.shape[2] * zoom))
    colours = torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]
    colours = F.interpolate(colours, grid, mode="area")[0].flatten(1).T
    rows, columns = torch.meshgrid(*(torch.arange(n) / max(grid) for n in grid), indexing="ij")
    at = torch.stack([rows.flatten(), columns.flatten()], 1)
    alike = torch.exp(-torch.cdist(colours, colours).square() / (2 * COLOUR**2))
    alike *= torch.exp(-torch.cdist(at, at).square() / (2 * NEAR**2))
    alike /= alike.sum(1, keepdim=True)
    found = F.interpolate(heat[None], grid, mode="bicubic")[0].flatten(1).T
    for _ in range(ROUNDS):
        found = alike @ found
    least, most = found.amin(0), found.amax(0)
    share = ((found - least) / (most - least).clamp(min=1e-12)).T.reshape(-1, *grid)
    made = []
    for each in F.interpolate(share[None], (H, W), mode="bilinear")[0].numpy():
        threshold = settings.confine_threshold
        made.append(each >= (_otsu(each) if threshold is None else threshold))
    return np.stack(made).astype(np.float32)


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold that minimizes the variance within the two classes (Otsu 1979)."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    below = np.arange(1, len(ordered))
    above, sums = len(ordered) - below, np.cumsum(ordered)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return float(ordered[np.argmax(below * above * apart**2) + 1])


def _looks(inversion: Inversion) -> list[int]:
    """The steps of the inversion at which maps are taken, without duplicates."""
    steps = len(inversion.schedule)
    return sorted({min(steps - 1, int(look * steps)) for look in LOOKS})


def _attended(
    model: DiffusionModel, inversion: Inversion, places: list[list[list[int]]], settings: GuidanceSettings
) -> Tensor:
    """(B, K, h, w): how much each cell attends to each edit's words, 0 for captions without them."""
    B, K = len(places), len(places[0])
    h, w = inversion.trajectory.shape[-2:]
    heat = torch.zeros(B, K, h, w, device=model.device)
    if not any(at for each in places for at in each):
        return heat
    passes = Passes(model, B)
    model.maps.choose(settings.confine_layers)
    for i in _looks(inversion):
        passes.record(
            inversion.trajectory[i + 1], inversion.schedule.timesteps[i], inversion.c, inversion.schedule.levels[i + 1],
            whole=False,
        )  # fmt: skip
        for maps in model.maps.recorded.values():
            by_token = maps.mean(1).float()  # (B, cells, L)
            down = round((h * w / by_token.shape[1]) ** 0.5)
            by_token = by_token.unflatten(1, (-(-h // down), -(-w // down)))
            for b, each in enumerate(places):
                for k, at in enumerate(each):
                    if at:
                        found = by_token[b, :, :, at].mean(-1)[None, None]
                        found = found / found.mean().clamp(min=1e-12)
                        heat[b, k] += F.interpolate(found, (h, w), mode="bilinear")[0, 0]
        model.maps.clear()
    return heat


def _differing(model: DiffusionModel, inversion: Inversion, directions: Condition) -> Tensor:
    """(B, K, h, w): how far ε with each direction lies from ε without it, smoothed over 3×3 cells."""
    B, K = len(inversion.c), len(directions)
    passes = Passes(model, B, K)
    moved = inversion.c.each(lambda c: c.repeat_interleave(K, dim=0)) + directions.each(
        lambda delta: delta.repeat(B, *[1] * (delta.ndim - 1))
    )
    heat = torch.zeros(B, K, *inversion.trajectory.shape[-2:], device=model.device)
    for i in _looks(inversion):
        x, t, level = inversion.trajectory[i + 1], inversion.schedule.timesteps[i], inversion.schedule.levels[i + 1]
        without = passes.predict(x, t, inversion.c, level)
        given = passes.predict(x.repeat_interleave(K, dim=0), t, moved, level).unflatten(0, (B, K))
        heat += (given - without[:, None]).abs().mean(2)
    return F.avg_pool2d(heat, 3, stride=1, padding=1, count_include_pad=False)


def _sources(provenance: object) -> list[str]:
    """The source words of a direction, or of all directions that it is composed of."""
    if not isinstance(provenance, dict):
        return []
    parts = provenance.get("composed_of")
    if isinstance(parts, list):
        return [word for part in parts for word in _sources(part)]
    word = provenance.get("source")
    return [word] if isinstance(word, str) else []
