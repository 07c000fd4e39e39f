"""Checks that a cluster's machines can reach the files that a submitted job's configuration names."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from p2pz_ray.config.section import Section
from p2pz_ray.errors import ConfigError

_PLACES = (
    "output",
    "run",
    "student",
    "input.uri",
    "input.masks",
    "input.follow",
    "collection.uri",
    "inversion.cache",
    "pairs.runs",
    "pairs.tables",
)
"""Folders that are written or large: a relative one would be in the job's own folder and be deleted with it."""
_FILES = (
    *("direction", "sentences.files.source", "sentences.files.target", "embeddings.source", "embeddings.target"),
    "model.loras.name",
)
"""Files that are read: a relative one must be among the files sent."""


def check_reaches(config: Section, overrides: Sequence[str], folder: Path) -> None:
    """Raise ConfigError for files that other machines can't reach, and for secrets. folder: the one that is sent."""
    for key, uri in _texts(config):
        if "://" in uri or os.path.isabs(uri):
            continue
        if key in _PLACES:
            raise ConfigError(
                f"{key} is {uri}, which on the cluster would lie in the job's own folder and go with it: give a URI, "
                "or a full path that all its machines share."
            )
        if any(key == name or key.endswith(f".{name}") for name in _FILES) and not _is_sent(uri, folder):
            raise ConfigError(
                f"{key} is {uri}, which isn't among the files that are sent of {folder.resolve()}: put it there where "
                "no .gitignore or .rayignore names it, or give a URI or a full path that the machines share."
            )
        folders = key in ("model.name", "model.vae") or key.endswith(".model.name")
        if folders and Path(uri).is_dir() and not _is_sent(uri, folder):
            raise ConfigError(
                f"{key.removesuffix('.name')} is {uri}, a folder of this machine that isn't sent: give a hub id, a "
                "URI, or a full path that the machines share."
            )
    if any("storage_options" in override for override in overrides):
        raise ConfigError(
            "storage_options on the command line would stand in the cluster's list of jobs and in its logs: give its "
            "machines the rights themselves, or write them into the configuration file."
        )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a configuration with their dotted keys; items of a list have the list's key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, dict | Section) or is_dataclass(value):
        for name, inner in dict(value if isinstance(value, dict | Section) else vars(value)).items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))


def _is_sent(name: str, folder: Path) -> bool:
    """Whether a file, or any file in a folder, is sent to the place where the job looks for it."""
    from p2pz_ray.running.package import files_to_send

    below = os.path.normpath(name).replace(os.sep, "/")
    return any(sent == below or sent.startswith(f"{below}/") for sent in files_to_send(folder, [below]))
