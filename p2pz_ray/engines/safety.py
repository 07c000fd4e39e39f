"""Stable Diffusion's safety checker, which flags edited pictures with unwanted content."""

import os
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import safety_checker
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from transformers import CLIPConfig

from p2pz_ray.config.engine import SafetyConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.checkpoint import load_pretrained

BLUR = 1 / 16  # of the shorter side, in pixels
AT_ONCE = 16
# CLIP's, which the checker is made of.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def check_safety(config: SafetyConfig) -> None:
    """Raise ConfigError for a checkpoint whose configuration is not a safety checker's."""
    found = load_pretrained(CLIPConfig, _place(config), config.model.revision, "safety.model")
    if StableDiffusionSafetyChecker.__name__ not in (found.architectures or []):
        raise ConfigError(
            f"safety.model {config.model.name} is no StableDiffusionSafetyChecker: give a folder or a hub id of one, "
            "or leave safety out"
        )


class Safety:
    """A StableDiffusionSafetyChecker on a device, in float32. Raises ConfigError where it can't be loaded."""

    def __init__(self, config: SafetyConfig, device: str = "cpu") -> None:
        safety_checker.logger.setLevel("ERROR")  # it would warn that pictures were blackened, which is not done here
        loaded = load_pretrained(_Checker, _place(config), config.model.revision, "safety.model")
        self.checker: Any = loaded.checker.to(device).eval()
        self.holds = config.holds
        self.device = device
        self.side = int(self.checker.config.vision_config.image_size)

    def flagged(self, pictures: NDArray[np.uint8]) -> list[bool]:
        """(N, H, W, 3) uint8 → whether each is flagged."""
        found: list[bool] = []
        for start in range(0, len(pictures), AT_ONCE):
            seen = torch.stack([self._seen(picture) for picture in pictures[start : start + AT_ONCE]]).to(self.device)
            with torch.inference_mode():
                _, flags = self.checker(seen, np.zeros((len(seen), 1)))
            found += [bool(flag) for flag in flags]
        return found

    def held(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """What is stored for a flagged picture: the picture, a blur of it, or None."""
        if self.holds == "none":
            return None
        if self.holds == "kept":
            return picture
        radius = BLUR * min(picture.shape[:2])
        return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))

    def _seen(self, picture: NDArray[np.uint8]) -> torch.Tensor:
        """(H, W, 3) uint8 → (3, side, side) as CLIP sees it: the middle of it, normalized. The library's own processor
        asks for torchvision."""
        height, width = picture.shape[:2]
        ratio = self.side / min(height, width)
        size = (max(self.side, round(width * ratio)), max(self.side, round(height * ratio)))
        resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        top, left = ((length - self.side) // 2 for length in resized.shape[:2])
        middle = resized[top : top + self.side, left : left + self.side]
        normal = (middle / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        return torch.from_numpy(normal).permute(2, 0, 1).contiguous()


class _Checker:
    """The checker from safetensors alone."""

    def __init__(self, checker: StableDiffusionSafetyChecker) -> None:
        self.checker = checker

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> "_Checker":
        return cls(StableDiffusionSafetyChecker.from_pretrained(name, use_safetensors=True, **options))


def _place(config: SafetyConfig) -> str:
    """The checker's own folder, where a whole checkpoint's was named."""
    inner = os.path.join(os.path.expanduser(config.model.name), "safety_checker")
    return inner if os.path.isdir(inner) else config.model.name
