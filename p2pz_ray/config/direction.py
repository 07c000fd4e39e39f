"""The configuration of `p2pz direction`."""

from pydantic import model_validator

from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.config.section import Count, Device, Section, Text
from p2pz_ray.config.sentences import SentencesConfig


class EmbeddingsConfig(Section):
    """Two files of mean sentence embeddings, in the form that the method's authors publish (.pt)."""

    source: Text
    target: Text


class DirectionConfig(Section):
    """`p2pz direction`: two words, or two files of embeddings → a direction file."""

    model: CheckpointConfig = CheckpointConfig(name="mini")
    source: Text | None = None
    target: Text | None = None
    embeddings: EmbeddingsConfig | None = None  # instead of words; no model is loaded then
    sentences: SentencesConfig = SentencesConfig()
    count: Count = 1000
    output: Text  # a .safetensors file
    device: Device = "auto"

    @model_validator(mode="after")
    def _words_or_embeddings(self) -> "DirectionConfig":
        words = (self.source, self.target)
        if self.embeddings is not None and any(words):
            raise ValueError("has embeddings and words: keep only embeddings, or only source and target")
        if self.embeddings is None and not all(words):
            raise ValueError("names no direction: give it source and target, two words, or embeddings, two files")
        return self
