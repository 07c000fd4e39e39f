"""Loading transformers checkpoints from a folder or the Hugging Face hub, with errors of one sentence."""

import os
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from p2pz_ray.errors import ConfigError
from p2pz_ray.hub import patiently

_REACH = 10.0  # seconds to answer whether a repository is there


def load_pretrained(kind: Any, name: str, revision: str | None, key: str) -> Any:
    """`kind.from_pretrained(name)` from a local folder, else from the hub, else from the hub's cache on this machine.

    No remote code is ever run. Raises ConfigError, naming the configuration key `key`, if it can't be loaded.
    """
    local = os.path.isdir(name)
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ConfigError(f"There is no folder {name}: set {key} to a checkpoint's folder or hub id.")
    reachable = not local and _on_hub(name, revision, key)

    def load() -> Any:
        return kind.from_pretrained(name, revision=revision, local_files_only=not reachable, trust_remote_code=False)

    try:
        return patiently(load)
    except (
        Exception
    ) as error:  # transformers, huggingface_hub, safetensors and the operating system: each has its own errors
        if not local and not reachable:
            raise ConfigError(
                f"The Hugging Face hub can't be reached and {name} is not in its cache on this machine: set {key} "
                "to a downloaded checkpoint's folder."
            ) from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{name} is not a checkpoint that {kind.__name__} can load ({reason}): check {key}."
        ) from error


def _on_hub(name: str, revision: str | None, key: str) -> bool:
    """Whether the hub can be reached: from_pretrained itself would try each file for half a minute.

    Raises ConfigError if it can, but has no such repository or revision for this user.
    """
    try:
        patiently(lambda: HfApi().model_info(name, revision=revision, timeout=_REACH))
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code not in (401, 403, 404):
            return False
        at = f" at revision {revision}" if revision else ""
        raise ConfigError(
            f"The Hugging Face hub has no model {name}{at} that you may read (status "
            f"{error.response.status_code}): check {key}, or log in with an account that has access."
        ) from None
    except Exception:  # no network, no name service, a timeout, offline mode: each HTTP library has its own
        return False
    return True
