"""A job's configuration as Python gives it: a file, a mapping of the same keys, or one that was loaded before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from p2pz_ray.config.file import keys_of, load, validated
from p2pz_ray.errors import ConfigError

C = TypeVar("C", bound=BaseModel)
Given = str | Mapping[str, Any] | BaseModel | None
"""A file's path or URI, a mapping, or a loaded configuration; None: only the settings."""


def configuration(given: Given, settings: tuple[str, ...], kind: type[C]) -> C:
    """A job's arguments as its typed configuration. Raises ConfigError with one sentence."""
    if isinstance(given, kind) and not settings:
        return given
    if isinstance(given, BaseModel):
        given = given.model_dump()
    try:
        if isinstance(given, Mapping):
            return validated(dict(given), settings, kind)
        return load(None if given is None else str(given), settings, kind)
    except ConfigError:
        if job := _other_job(given, kind):
            raise ConfigError(f"{given} is a configuration of p2pz {job}: give this job one of its own.") from None
        raise


def _other_job(given: Given, kind: type[BaseModel]) -> str | None:
    """Another job that knows all of a file's keys, if this job doesn't; else None."""
    if not isinstance(given, str):
        return None
    from p2pz_ray.config.reference import JOBS

    keys = keys_of(given)
    if not keys or keys <= set(kind.model_fields):
        return None
    return next((job for job, config in JOBS.items() if keys <= set(config.model_fields)), None)
