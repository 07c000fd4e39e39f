"""Tables in a collection's folders that are not its data, but files that other tools leave beside theirs.

_temporary/, _SUCCESS, .part-0.crc    of Spark and Hadoop, which hide names that begin with "_" or "."
_delta_log/                           Delta Lake's log; it also says which of the other files still count
cache-*.arrow                         of a data set that `datasets` saved; its state.json names the files that count
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.errors import ConfigError
from p2pz_ray.storage.failure import shown
from p2pz_ray.storage.store import Store

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d{10}\.\d{10})?\.parquet")


def leftovers(store: Store, tables: Iterable[str]) -> set[str]:
    """The paths of a folder's tables that are not its data.

    Raises ConfigError if data and leftovers can't be told apart.
    """
    left: set[str] = set()
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for path in tables:
        if any(part.startswith("_") for part in path.split("/")):
            left.add(path)
        else:
            by_folder[posixpath.dirname(path)].append(path)
    for folder, paths in by_folder.items():
        if any(path.endswith(".arrow") for path in paths):
            left |= _unsaved(store, folder, paths)
    for folder in _delta_tables(store, by_folder):
        live = _live(store, folder)
        if live:
            left |= {path for path in _below(folder, by_folder) if path not in live}
    return left


def _unsaved(store: Store, folder: str, paths: Sequence[str]) -> set[str]:
    """Files that `datasets` left next to those of a data set that it saved, or that it prepared in its own cache."""
    state = posixpath.join(folder, "state.json")
    if store.exists(state):
        content = _json(store, state)
        files = {posixpath.join(folder, str(file.get("filename"))) for file in content.get("_data_files") or []}
        if content.get("_indices_files"):
            raise ConfigError(
                f"{shown(store.name(state))} names a mapping of indices beside the rows: call flatten_indices() before "
                "save_to_disk."
            )
        return {path for path in paths if path not in files}
    if store.exists(posixpath.join(folder, "dataset_info.json")):
        return {path for path in paths if posixpath.basename(path).startswith("cache-")}
    return set()


def _delta_tables(store: Store, folders: Iterable[str]) -> list[str]:
    """The folders among these, or above them, that have a log of Delta Lake."""
    above = {folder for name in folders for folder in _and_parents(name)}
    return sorted(folder for folder in above if store.list(posixpath.join(folder, "_delta_log")))


def _live(store: Store, folder: str) -> set[str]:
    """The paths of a Delta table's current files, from its log; none if the log doesn't reach back to its beginning or
    to a readable checkpoint."""
    log = posixpath.join(folder, "_delta_log")
    commits = {int(match[1]): match[0] for match in map(_COMMIT.fullmatch, store.list(log)) if match}
    checkpoints: defaultdict[int, list[str]] = defaultdict(list)
    for match in filter(None, map(_CHECKPOINT.fullmatch, store.list(log))):
        checkpoints[int(match[1])].append(match[0])
    live: set[str] = set()
    last = max(checkpoints, default=-1)
    try:
        for name in checkpoints[last] if checkpoints else ():
            with store.open(posixpath.join(log, name)) as file:
                added = pq.ParquetFile(file).read(["add"])["add"].to_pylist()
            live |= {posixpath.join(folder, unquote(one["path"])) for one in added if one and one.get("path")}
    except (pa.ArrowException, OSError, KeyError, ValueError):
        live, last = set(), -1
    if not live and 0 not in commits:
        return set()
    for version in sorted(version for version in commits if version > last):
        for line in store.read(posixpath.join(log, commits[version])).splitlines():
            action = json.loads(line) if line.strip() else {}
            for kind, change in (("add", live.add), ("remove", live.discard)):
                if kind in action:
                    change(posixpath.join(folder, unquote(action[kind]["path"])))
    return live


def _below(folder: str, by_folder: dict[str, list[str]]) -> Iterable[str]:
    for name, paths in by_folder.items():
        if folder in _and_parents(name):
            yield from paths


def _and_parents(folder: str) -> list[str]:
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _json(store: Store, path: str) -> dict[str, Any]:
    try:
        content = json.loads(store.read(path))
    except ValueError as error:
        raise ConfigError(
            f"{shown(store.name(path))} is not valid JSON ({error}): write the data set again."
        ) from error
    return content if isinstance(content, dict) else {}
