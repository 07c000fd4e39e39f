"""Where the sentences of a direction come from."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from p2pz_ray.config.model import ModelConfig
from p2pz_ray.config.section import Amount, Count, Natural, Section, Text
from p2pz_ray.language.sentences import SentenceSource, Template, TextFile


class FilesConfig(Section):
    """Two text files with one sentence per line."""

    source: Text
    target: Text
    storage_options: dict[str, Any] = Field(default_factory=dict)


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint; the key itself is in an environment variable, never here."""

    base_url: Text
    model: Text
    api_key_env: Text | None = "OPENAI_API_KEY"  # the variable's name; null sends no key
    sentences_per_request: Count = 50
    max_requests: Count | None = None
    temperature: Amount = 1.0
    timeout: Annotated[float, Field(gt=0)] = 120.0  # seconds per try
    retries: Natural = 5


class SentencesConfig(Section):
    """Where the sentences come from: the embedded template bank, unless one of the keys is set."""

    files: FilesConfig | None = None
    endpoint: EndpointConfig | None = None
    text_model: ModelConfig | None = None  # a causal language model's folder or hub id

    @model_validator(mode="before")
    @classmethod
    def _template(cls, value: Any) -> Any:
        return {} if value == "template" else value

    @model_validator(mode="after")
    def _one(self) -> "SentencesConfig":
        chosen = [key for key, value in self if value is not None]
        if len(chosen) > 1:
            raise ValueError(f"has both {chosen[0]} and {chosen[1]}: keep one, or none for the template bank")
        return self

    def source(self, side: Literal["source", "target"], device: str = "cpu", seed: int = 0) -> SentenceSource:
        """What writes the sentences of one side of a direction; only a text model uses `device` and `seed`."""
        if self.files is not None:
            return TextFile(getattr(self.files, side), self.files.storage_options)
        if self.endpoint is not None:
            from p2pz_ray.language.endpoint import Endpoint

            return Endpoint(**self.endpoint.model_dump())
        if self.text_model is not None:
            from p2pz_ray.language.text_model import TextModel  # loads torch and transformers

            return TextModel(self.text_model.name, self.text_model.revision, device=device, seed=seed)
        return Template()
