"""Masks of the object that a word names, by a semantic segmentation checkpoint such as SegFormer or Mask2Former."""

import re
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.metric import Mask, Pixels
from p2pz_ray.language.checkpoint import load_pretrained


class Segmentation:
    """model: a checkpoint's folder or hub id, whose labels name classes ("cat", or "cat, feline").

    Raises ConfigError if there is no such checkpoint.
    """

    def __init__(self, model: str, revision: str | None = None, device: str = "cpu") -> None:
        self.name, self.device = model, device
        load = (model, revision, "masks.model")
        config = load_pretrained(AutoConfig, *load)
        semantic = type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
        kind: Any = AutoModelForSemanticSegmentation if semantic else AutoModelForUniversalSegmentation
        self._model = load_pretrained(kind, *load).to(device).float().eval().requires_grad_(False)
        self._processor = load_pretrained(AutoImageProcessor, *load)
        self._labels = {int(number): label.lower() for number, label in config.id2label.items()}

    def classes(self, word: str) -> list[int]:
        """The classes that match a phrase, or one of its words, as in "cat with glasses"."""
        said = {word.lower(), *re.findall(r"[\w-]+", word.lower())}
        return [number for number, label in self._labels.items() if said & set(re.split(r"\s*[,;]\s*", label))]

    def check(self, word: str) -> None:
        """Raise ConfigError for a word that names none of the classes."""
        if not self.classes(word):
            known = ", ".join(sorted(self._labels.values()))[:300]
            raise ConfigError(f"masks.model {self.name} knows no {word!r}, but {known}: choose another.")

    @torch.no_grad()
    def __call__(self, picture: Pixels, word: str) -> Mask:
        """Where the word's object is, (H, W, 3) uint8 → (H, W) bool."""
        given = self._processor(images=[picture], return_tensors="pt").to(self.device)
        size = [picture.shape[:2]]
        [found] = self._processor.post_process_semantic_segmentation(self._model(**given), target_sizes=size)
        return np.isin(found.cpu().numpy(), self.classes(word))
