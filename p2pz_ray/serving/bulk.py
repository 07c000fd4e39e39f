"""Whole collections, sent to a cluster as jobs: those alone that lie where the service's configuration says."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from p2pz_ray.errors import ConfigError
from p2pz_ray.serving.config import ServeConfig


class Bulk:
    """Submits translations by the service's model and settings."""

    def __init__(self, config: ServeConfig) -> None:
        assert config.bulk is not None
        self.config, self.bulk = config, config.bulk

    def submit(self, collection: str, edit: str | tuple[str, str], run: str) -> dict[str, Any]:
        """Send a translation; returns its job's id and its run. Raises P2PZError where it can't be sent."""
        from p2pz_ray.running.submit import JobServer

        output = self._below(self.bulk.output, run, "run")
        settings = self.settings(self._below(self.bulk.input, collection, "collection"), edit, output)
        with tempfile.TemporaryDirectory() as nothing:  # the job needs no file beside the package
            job = JobServer(self.bulk.address).submit("translate", None, settings, Path(nothing))
        return {"job": job, "run": run, "output": output}

    def settings(self, collection: str, edit: str | tuple[str, str], output: str) -> list[str]:
        """What `p2pz translate` is told. An edit that composes others brings them along."""
        config = self.config
        if isinstance(edit, str):
            named = config.offered.get(edit)
            if named is None:
                raise ConfigError(f"{edit} is a student's, and runs are made by the model: name another edit.")
            edits = {part: config.offered[part] for part in named.compose or []} | {edit: named}
            given = {name: one.model_dump(mode="json", exclude_defaults=True) for name, one in edits.items()}
        else:
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", "2".join(edit))[:64]
            given = {name: {"source": edit[0], "target": edit[1], "count": config.words.count}}
        own = {"model", "inversion", "guidance"}
        parts: dict[str, Any] = config.model_dump(mode="json", include=own, exclude_defaults=True)
        parts |= {"edits": given, "input": {"uri": collection}, "output": output}
        return [f"{key}={json.dumps(value)}" for key, value in parts.items() if value]

    def status(self, run: str) -> str:
        """How a run stands. Raises P2PZError where there is none."""
        from p2pz_ray.running.status import status

        return str(status(self._below(self.bulk.output, run, "run")))

    def _below(self, folder: str, name: str, key: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", name):
            raise ConfigError(f"{key} is {name[:80]!r}: use letters, digits, '.', '_', '-' and '/' between names.")
        return f"{folder.rstrip('/')}/{name}"
