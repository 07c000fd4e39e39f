"""Whole collections, sent to a cluster as jobs. They must lie below the folder that the configuration names."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from p2pz_ray.config.serve import ServeConfig
from p2pz_ray.errors import ConfigError


class Bulk:
    """Submits translations with the service's model and settings."""

    def __init__(self, config: ServeConfig) -> None:
        assert config.bulk is not None
        self.config, self.bulk = config, config.bulk

    def submit(self, collection: str, edit: str | tuple[str, str], run: str) -> dict[str, Any]:
        """Send a translation; returns the job's id and the run. Raises P2PZError where it can't be sent."""
        from p2pz_ray.running.submit import JobServer

        output = self._below(self.bulk.output, run, "run")
        settings = self.settings(self._below(self.bulk.input, collection, "collection"), edit, output)
        with tempfile.TemporaryDirectory() as empty:  # the job needs no files but the package's
            job = JobServer(self.bulk.address).submit("translate", None, settings, Path(empty))
        return {"job": job, "run": run, "output": output}

    def settings(self, collection: str, edit: str | tuple[str, str], output: str) -> list[str]:
        """The arguments of `p2pz translate`. An edit that composes others includes them."""
        config = self.config
        if isinstance(edit, str):
            offered_edit = config.offered.get(edit)
            if offered_edit is None:
                raise ConfigError(f"Only a student makes {edit}, and runs use the diffusion model: name another edit.")
            offered = {part: config.offered[part] for part in offered_edit.compose or []} | {edit: offered_edit}
            edits = {
                name: config_of_edit.model_dump(mode="json", exclude_defaults=True)
                for name, config_of_edit in offered.items()
            }
        else:
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", "2".join(edit))[:64]
            edits = {name: {"source": edit[0], "target": edit[1], "count": config.words.count}}
        shared = {"model", "inversion", "guidance"}
        parts: dict[str, Any] = config.model_dump(mode="json", include=shared, exclude_defaults=True)
        parts |= {"edits": edits, "input": {"uri": collection}, "output": output}
        return [f"{key}={json.dumps(value)}" for key, value in parts.items() if value]

    def status(self, run: str) -> str:
        """The progress of a run. Raises P2PZError where there is no such run."""
        from p2pz_ray.translation.status import status

        return str(status(self._below(self.bulk.output, run, "run")))

    def _below(self, folder: str, name: str, key: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", name):
            raise ConfigError(f"{key} is {name[:80]!r}: use letters, digits, '.', '_', '-' and '/' between names.")
        return f"{folder.rstrip('/')}/{name}"
