"""The text encoders of a checkpoint: from sentences to the conditioning of the UNet."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from p2pz_ray.editing.checkpoint.lora import Lora, fuse
from p2pz_ray.editing.checkpoint.weights import variant_in
from p2pz_ray.errors import ConfigError, first_line

SENTENCES = 64  # sentences embedded at once
# What diffusers, transformers and safetensors raise for folders that are incomplete, damaged or of another kind.
UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)


@dataclass(frozen=True)
class Condition:
    """The UNet's conditioning on n texts: `tokens` (n, L, D), and for SDXL also `pooled` (n, P). `hints` are the
    controls' encodings of n pictures, in tensors with n rows each."""

    tokens: Tensor
    pooled: Tensor | None = None
    hints: tuple[tuple[Tensor, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def each(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """The condition with the function applied to each tensor."""
        hints = tuple(tuple(function(part) for part in hint) for hint in self.hints)
        return Condition(function(self.tokens), None if self.pooled is None else function(self.pooled), hints)

    def __getitem__(self, rows: slice) -> "Condition":
        return self.each(lambda part: part[rows])

    def __add__(self, other: "Condition") -> "Condition":
        pooled = None if self.pooled is None or other.pooled is None else self.pooled + other.pooled
        return Condition(self.tokens + other.tokens, pooled, self.hints)

    def shown(self, hints: tuple[tuple[Tensor, ...], ...]) -> "Condition":
        """The same texts with other pictures."""
        return Condition(self.tokens, self.pooled, hints)

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> "Condition":
        pooled = [part.pooled for part in parts if part.pooled is not None]
        hints = [
            tuple(torch.cat(same) for same in zip(*alike, strict=True))
            for alike in zip(*(part.hints for part in parts), strict=True)
        ]
        tokens = torch.cat([part.tokens for part in parts])
        return cls(tokens, torch.cat(pooled) if pooled else None, tuple(hints))


class TextEncoder:
    """One CLIP with its last hidden states (Stable Diffusion 1.x and 2.x), or SDXL's two, whose second-to-last hidden
    states are concatenated; the second also gives the pooled part.

    Always float32: they are small, and a direction is only as precise as they are. (At Stable Diffusion 1.5's layout
    with random weights float16 is 0.13 % off on an H100, bfloat16 1.0 %: jobs/accelerator.md.) `encoder` holds them in
    order.
    """

    def __init__(self, tokenizers: Sequence[CLIPTokenizer], encoders: Sequence[nn.Module]):
        self.tokenizers = tuple(tokenizers)
        self.encoder: Any = nn.ModuleList(encoders).eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, loras: Sequence[Lora] = ()) -> "TextEncoder":
        """Load only the text encoders of a checkpoint, which are all that a direction needs; `loras` are fused into
        it."""
        names = ["text_encoder", "text_encoder_2"] if is_xl(folder) else ["text_encoder"]
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        try:
            text = cls(
                [CLIPTokenizer.from_pretrained(folder, subfolder=f"tokenizer{name[12:]}") for name in names],
                [
                    kind.from_pretrained(
                        folder,
                        subfolder=name,
                        variant=variant_in(folder / name, half=False),
                        dtype=torch.float32,
                        use_safetensors=True,
                    )
                    for kind, name in zip(kinds, names, strict=False)
                ],
            )
        except UNLOADABLE as error:
            raise ConfigError(f"the text encoder of {folder} can't be loaded: {first_line(error)}") from error
        for lora in loras:
            fuse(lora, dict(zip(names, text.encoder, strict=True)))
        return text

    @property
    def tokens(self) -> int:
        """L: the tokenizer's length, or if it has none the encoder's number of positions."""
        return min(int(self.tokenizers[0].model_max_length), int(self.encoder[0].config.max_position_embeddings))

    @property
    def width(self) -> int:
        return sum(int(encoder.config.hidden_size) for encoder in self.encoder)

    @property
    def pooled(self) -> int:
        """The width of the pooled part; 0 if there is none."""
        return 0 if len(self.encoder) == 1 else int(self.encoder[1].config.projection_dim)

    @property
    def fingerprint(self) -> str:
        """16 hex digits naming this encoder; equal for its fp16 and fp32 files, so a direction fits both."""
        digest = hashlib.sha256(f"{self.tokens}x{self.width}".encode())
        for encoder in self.encoder:
            for name, parameter in sorted(encoder.named_parameters()):
                head = parameter.detach().flatten()[:256].half().cpu().numpy().tobytes()
                digest.update(name.split("text_model.")[-1].encode() + head)
        return digest.hexdigest()[:16]

    def embed(self, sentences: list[str]) -> Condition:
        """n sentences, padded or cut to L tokens, float32."""
        return Condition.cat(
            [self._embed(sentences[at : at + SENTENCES]) for at in range(0, len(sentences), SENTENCES)]
        )

    @torch.no_grad()
    def _embed(self, sentences: list[str]) -> Condition:
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoder, strict=True):
            tokens = tokenizer(
                sentences, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
            )
            ids = tokens.input_ids.to(encoder.device)
            if len(self.encoder) == 1:
                # Stable Diffusion 1.x attends to its padding; some later checkpoints say that they don't.
                masks = bool(getattr(encoder.config, "use_attention_mask", False))
                return Condition(
                    encoder(ids, attention_mask=tokens.attention_mask.to(ids.device) if masks else None)[0]
                )
            found = encoder(ids, output_hidden_states=True)
            states.append(found.hidden_states[-2])
            pooled = found[0]
        return Condition(torch.cat(states, -1), pooled)


def is_xl(folder: Path) -> bool:
    """Whether a checkpoint's folder has StableDiffusionXLPipeline's layout. Raises ConfigError if that can't be
    read."""
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text())
        return "text_encoder_2" in parts
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{index} can't be read ({first_line(error)}): fetch the model again") from error
