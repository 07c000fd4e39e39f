"""The record of a run's configuration, and its fingerprint: equal ones make the same pairs."""

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel

# Keys that change where and how fast a run is made, but no pixel and no row of it.
_WITHOUT_EFFECT = re.compile(
    r"(replicas|ray|tolerance|batch_size|device|compile|checkpointing|output|inversion\.cache)(\..*)?"
    r"|input\.(images_per_partition|new|unreadable)"
    r"|.*sentences\.endpoint\.(api_key_env|timeout|retries|max_requests)"
)


def record(config: BaseModel) -> dict[str, Any]:
    """`config` with all defaults as plain YAML values, without storage options, which may hold secrets."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if not key.endswith("storage_options")}
        return value

    result: dict[str, Any] = plain(config.model_dump(mode="json"))
    return result


def fingerprint(config: BaseModel | dict[str, Any]) -> str:
    """16 hex digits that change when a key that decides pixels or rows changes. The content of the files that the
    configuration names (images, model, direction) is not included."""
    values = config if isinstance(config, dict) else record(config)
    text = json.dumps(_effective(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys that decide pixels or rows and differ between two records, each as "KEY was OLD and is
    NEW"."""
    before, after = _effective(old), _effective(new)
    return [
        f"{key} was {_shown(before, key)} and is {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if _shown(before, key) != _shown(after, key)
    ]


def _effective(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value, of the leaves that decide pixels or rows."""
    leaves: dict[str, Any] = {}
    for name, value in record.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            leaves |= _effective(value, f"{key}.")
        elif not _WITHOUT_EFFECT.fullmatch(key):
            leaves[key] = value
    return leaves


def _shown(leaves: dict[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "not set"
