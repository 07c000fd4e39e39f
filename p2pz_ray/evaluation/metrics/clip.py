"""CLIP: which of two texts an edited picture is closer to, and what the edit gained.

    clip_source, clip_target    cosine of the edited picture with the source's text, with the target's
    clip_gain                   clip_target minus the same cosine of the source picture
    clip_target_object          clip_target of what lies inside the source's mask, the rest black

CLIP-Acc, as the paper has it, is the share of pairs whose clip_target is above their clip_source.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from p2pz_ray.config.evaluate import PROMPT
from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.metric import Pair, Pixels, Scores
from p2pz_ray.language.checkpoint import load_pretrained

MINI = Path(__file__).parents[2] / "mini" / "clip"


class ClipScore:
    """model: "mini" (the miniature's own), a CLIPModel's folder or a hub id. prompt: the template for words.

    Raises ConfigError if there is no such model.
    """

    def __init__(self, model: str, revision: str | None = None, *, prompt: str = PROMPT, device: str = "cpu") -> None:
        if model == "mini" and not (MINI / "config.json").is_file():
            raise ConfigError(
                f"The miniature's CLIP is not installed ({MINI}): set metrics.clip to another CLIP or null."
            )
        name = str(MINI) if model == "mini" else model
        self.name = f"the miniature's CLIP, {prompt!r}" if model == "mini" else f"CLIP {model}, {prompt!r}"
        self.prompt, self.device = prompt, device
        load = (name, revision, "metrics.clip.model")
        self._model = load_pretrained(CLIPModel, *load).to(device).float().eval().requires_grad_(False)
        self._tokenizer = load_pretrained(AutoTokenizer, *load)
        self._processor = load_pretrained(CLIPImageProcessorPil, *load)
        self._texts: dict[str, Tensor] = {}

    @property
    def columns(self) -> Mapping[str, str]:
        return dict.fromkeys(("clip_source", "clip_target", "clip_gain", "clip_target_object"), self.name)

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        scores: Scores = {name: [None] * len(pairs) for name in self.columns}
        known = [i for i, pair in enumerate(pairs) if pair.texts or pair.words]
        if not known:
            return scores
        texts = [self._said(pairs[i]) for i in known]
        before, after = (self.text([pair[side] for pair in texts]) for side in (0, 1))
        edited = self.image([pairs[i].edited for i in known])
        source = self.image([pairs[i].source for i in known])
        found = {"clip_source": edited * before, "clip_target": edited * after, "clip_gain": (edited - source) * after}
        for name, products in found.items():
            for i, value in zip(known, products.sum(1).tolist(), strict=True):
                scores[name][i] = value
        inside = [(row, i, mask) for row, i in enumerate(known) if (mask := pairs[i].mask) is not None and mask.any()]
        if inside:
            cut = self.image([pairs[i].edited * mask[..., None] for _, i, mask in inside])
            for (row, i, _), picture in zip(inside, cut, strict=True):
                scores["clip_target_object"][i] = float(picture @ after[row])
        return scores

    @torch.no_grad()
    def image(self, pictures: Sequence[Pixels]) -> Tensor:
        """(B, D) unit vectors."""
        x: Any = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return F.normalize(_tensor(self._model.get_image_features(pixel_values=x.to(self.device))), dim=1)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """(B, D) unit vectors; each text is encoded once."""
        for text in dict.fromkeys(texts):
            if text not in self._texts:
                limit = self._model.config.text_config.max_position_embeddings
                tokens = self._tokenizer(
                    [text], padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
                )
                found = self._model.get_text_features(input_ids=tokens["input_ids"].to(self.device))
                self._texts[text] = F.normalize(_tensor(found), dim=1)[0]
        return torch.stack([self._texts[text] for text in texts])

    def _said(self, pair: Pair) -> tuple[str, str]:
        if pair.texts:
            return pair.texts
        assert pair.words is not None
        return self.prompt.format(pair.words[0]), self.prompt.format(pair.words[1])


def _tensor(found: Any) -> Tensor:
    """transformers 5 wraps the tensor that transformers 4 returned directly."""
    return found if isinstance(found, Tensor) else found.pooler_output
