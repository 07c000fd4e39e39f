"""Captions: the text that an image is inverted with, from a column, a fixed sentence or a captioning model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration
from transformers.image_processing_base import ImageProcessingMixin

from p2pz_ray.language.checkpoint import load_pretrained

# Defaults for a BLIP checkpoint whose preprocessor_config.json leaves them out; the normalization is CLIP's.
_SIZE = 384
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class Captioner:
    """Captions for a batch: an image's own where it has one, else `blip`'s, else the sentence `otherwise`."""

    def __init__(self, otherwise: str, blip: "Blip | None" = None) -> None:
        self.otherwise = otherwise
        self.blip = blip

    def __call__(self, images: Sequence[np.ndarray], given: Sequence[str | None]) -> list[str]:
        """`images`: B arrays (H, W, 3) uint8, sizes may differ. `given`: B captions from the collection,
        None where there is none; blank ones count as none. Returns B captions with single spaces."""
        captions = [" ".join((text or "").split()) for text in given]
        bare = [i for i, text in enumerate(captions) if not text]
        if self.blip is not None and bare:
            for i, text in zip(bare, self.blip([images[i] for i in bare]), strict=True):
                captions[i] = text
        return [text or self.otherwise for text in captions]


class Blip:
    """A BLIP captioning checkpoint (BlipForConditionalGeneration): a folder, or a hub id with its revision.

    Raises ConfigError when it can't be loaded. Beam search with 3 beams, so captions are reproducible.
    """

    def __init__(
        self, model: str, *, revision: str | None = None, device: str = "cpu", max_new_tokens: int = 30
    ) -> None:
        key = "captions.model"
        self.tokenizer: Any = load_pretrained(AutoTokenizer, model, revision, key)
        self.model: Any = load_pretrained(BlipForConditionalGeneration, model, revision, key).to(device).eval()
        settings = load_pretrained(_PreprocessorSettings, model, revision, key).values
        self.max_new_tokens = max_new_tokens
        size = settings.get("size") or _SIZE
        if isinstance(size, dict):
            size = (size.get("height") or size["shortest_edge"], size.get("width") or size["shortest_edge"])
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else size  # (H, W)
        self.resample = Image.Resampling(settings.get("resample") or Image.Resampling.BICUBIC)
        self.mean = np.array(settings.get("image_mean") or _MEAN, dtype=np.float32)
        self.std = np.array(settings.get("image_std") or _STD, dtype=np.float32)

    def __call__(self, images: Sequence[np.ndarray]) -> list[str]:
        """B arrays (H, W, 3) uint8 → B captions; a caption may be ""."""
        if not images:
            return []
        pixels = torch.stack([self.pixels(image) for image in images]).to(self.model.device)
        with torch.inference_mode():
            tokens = self.model.generate(pixel_values=pixels, num_beams=3, max_new_tokens=self.max_new_tokens)
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8 → (3, h, w) float32 as the checkpoint's preprocessor makes them: resized to its
        size, whatever the aspect ratio, and normalized. transformers' own processor would need torchvision."""
        height, width = self.size
        resized = Image.fromarray(image).resize((width, height), self.resample)
        normal = (np.asarray(resized, dtype=np.float32) / 255 - self.mean) / self.std
        return torch.from_numpy(normal).permute(2, 0, 1).contiguous()


class _PreprocessorSettings:
    """The values of preprocessor_config.json (or of processor_config.json, where newer checkpoints keep
    them)."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> "_PreprocessorSettings":
        values, _ = ImageProcessingMixin.get_image_processor_dict(name, **options)
        return cls(values)
