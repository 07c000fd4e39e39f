"""The description of a translation that is sent to replicas: small, without models."""

from dataclasses import dataclass, field
from typing import Any

from p2pz_ray.collection.schema import Columns
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import TranslateConfig


@dataclass(frozen=True)
class Job:
    """A translation for a replica. It is small: models, directions and images are named by URI.

    config: with local paths made absolute. size: (H, W) pixels of every translated image.
    fingerprint: of the configuration, the model and the directions. ingredients: what names their contents.
    """

    config: TranslateConfig
    size: tuple[int, int]
    fingerprint: str
    ingredients: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> Columns:
        return columns_of(self.config)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.output, self.config.output_storage_options)


def columns_of(config: TranslateConfig) -> Columns:
    """The names of the collection's columns."""
    named = config.input.columns
    conditions = tuple(dict.fromkeys(each.column for each in config.conditions if each.column is not None))
    return Columns(named.id, named.image, config.captions.column, named.mask, config.input.masks, conditions)
