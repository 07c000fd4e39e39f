"""Edit directions: the difference of two words in text-embedding space (pix2pix-zero, section 3.1)."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import Any

import fsspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from p2pz_ray.editing.text import Condition, TextEncoder
from p2pz_ray.errors import ConfigError, first_line


@dataclass(frozen=True)
class EditDirection:
    """Δc, (L, D) float32, and where it came from; of SDXL also the difference of the pooled parts, (P,).

    `provenance["text_encoder"]` is the fingerprint of the encoder it was made with; a direction made from published
    embeddings has none, and only its shape can be checked.
    """

    embedding: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)
    pooled: Tensor | None = None

    @property
    def condition(self) -> Condition:
        """The direction as one row, to be added to an image's condition."""
        return Condition(self.embedding[None], None if self.pooled is None else self.pooled[None])

    @classmethod
    def from_sentences(
        cls, text: TextEncoder, source: list[str], target: list[str], /, **provenance: Any
    ) -> "EditDirection":
        """Δc = mean φ(target sentences) - mean φ(source sentences), φ the text conditioning of the UNet."""
        for side, sentences in (("source", source), ("target", target)):
            if not sentences:
                raise ConfigError(f"the {side} side of a direction has no sentence: give at least one")
        after, before = (text.embed(side).each(lambda c: c.double().mean(0)) for side in (target, source))
        delta = (after + before.each(lambda c: -c)).each(lambda c: c.float().cpu())
        known = {
            "text_encoder": text.fingerprint,
            "source_sentences": len(source),
            "target_sentences": len(target),
            "sentences_sha256": hashlib.sha256("\n".join([*source, "", *target]).encode()).hexdigest(),
        }
        return cls(delta.tokens, {**known, **provenance}, delta.pooled)

    @classmethod
    def from_embeddings(cls, source: str, target: str) -> "EditDirection":
        """From two files of mean embeddings as the authors publish them: `.pt`, (1, L, D) or (L, D), any float."""
        embedding = _mean_embedding(target) - _mean_embedding(source)
        return cls(embedding, {"source_embeddings": source, "target_embeddings": target})

    def __add__(self, other: "EditDirection") -> "EditDirection":
        """Both edits at once, as Δc + Δc'. Raises ConfigError for directions of two models."""
        mine, others = (d.provenance.get("text_encoder") for d in (self, other))
        if self._shapes != other._shapes or (mine and others and mine != others):
            raise ConfigError("these directions were made for two models: make both with one, then compose them")
        known = {"text_encoder": mine or others} if mine or others else {}
        both = self.condition + other.condition
        return EditDirection(
            both.tokens[0],
            {**known, "composed_of": [self.provenance, other.provenance]},
            None if both.pooled is None else both.pooled[0],
        )

    def __mul__(self, strength: float) -> "EditDirection":
        """The same edit, stronger or weaker; a negative strength reverses it."""
        strength = float(strength)
        pooled = None if self.pooled is None else strength * self.pooled
        return EditDirection(strength * self.embedding, {**self.provenance, "strength": strength}, pooled)

    __rmul__ = __mul__

    def __neg__(self) -> "EditDirection":
        return self * -1

    @property
    def digest(self) -> str:
        """16 hex digits naming the direction's contents."""
        digest = hashlib.sha256()
        for part in self._tensors().values():
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, uri: str) -> None:
        """Write as safetensors at any fsspec URI; the provenance stands in the file's metadata."""
        fs, path = fsspec.core.url_to_fs(uri)
        fs.makedirs(fs._parent(path), exist_ok=True)
        fs.pipe_file(path, self.to_bytes())

    @classmethod
    def load(cls, uri: str) -> "EditDirection":
        """Read what `save` wrote. Raises ConfigError, naming the file, if it is missing or not a direction."""
        return cls.from_bytes(_read(uri), uri)

    def to_bytes(self) -> bytes:
        """The file that `save` writes."""
        metadata = {"format": "p2pz_ray.direction", "provenance": json.dumps(self.provenance, sort_keys=True)}
        return save_safetensors(self._tensors(), metadata)

    @classmethod
    def from_bytes(cls, data: bytes, uri: str) -> "EditDirection":
        """What `to_bytes` gave; `uri` names the file in an error."""
        try:
            tensors = {name: tensor.float() for name, tensor in load_safetensors(data).items()}
            embedding, pooled = tensors["direction"], tensors.get("pooled")
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
            provenance = json.loads(metadata.get("provenance", "{}"))
        except (SafetensorError, KeyError, ValueError, UnicodeDecodeError) as error:
            raise ConfigError(f"{uri} is not an edit direction: make one with `p2pz direction`") from error
        if embedding.ndim != 2 or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ConfigError(f"{uri} holds no finite (tokens, width) matrix: make it again with `p2pz direction`")
        return cls(embedding, provenance, pooled)

    def check(self, text: TextEncoder, name: str) -> None:
        """Raise ConfigError if this direction, called `name`, was made for another text encoder."""
        wanted = (text.tokens, text.width, text.pooled)
        made_for = self.provenance.get("text_encoder", text.fingerprint)
        if self._shapes != wanted or made_for != text.fingerprint:
            raise ConfigError(
                f"direction {name} was made for another model: it is {_sized(*self._shapes)} for encoder {made_for}, "
                f"the model's is {_sized(*wanted)}, {text.fingerprint}; make it again with this model"
            )

    @property
    def _shapes(self) -> tuple[int, int, int]:
        """L, D and P; P is 0 without a pooled part."""
        L, D = self.embedding.shape
        return L, D, 0 if self.pooled is None else len(self.pooled)

    def _tensors(self) -> dict[str, Tensor]:
        parts = {"direction": self.embedding.contiguous()}
        return parts if self.pooled is None else {**parts, "pooled": self.pooled.contiguous()}


def _sized(tokens: int, width: int, pooled: int) -> str:
    return f"{tokens}×{width}" + (f" and {pooled} pooled" if pooled else "")


def _read(uri: str) -> bytes:
    try:
        fs, path = fsspec.core.url_to_fs(uri)
        return fs.cat_file(path)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{uri} can't be read ({first_line(error)}): check the path and the rights to it") from error


def _mean_embedding(uri: str) -> Tensor:
    try:
        # weights_only: a pickle from elsewhere may hold tensors and nothing that runs.
        tensor = torch.load(io.BytesIO(_read(uri)), map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # torch.load raises many kinds for what is no file of tensors
        raise ConfigError(f"{uri} is not a file of one embedding tensor ({type(error).__name__})") from error
    if not isinstance(tensor, Tensor) or tensor.squeeze(0).ndim != 2:
        raise ConfigError(f"{uri} does not hold one (1, tokens, width) tensor: give a mean embedding")
    return tensor.squeeze(0).float()
