"""The folder for the sockets and logs of a Ray started on this machine, checked before Ray starts."""

import os
import tempfile

from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.failure import shown

_LONGEST_SOCKET = 103  # bytes of a socket's path: 107 on Linux, 103 on macOS
_BELOW = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that Ray creates in the folder."""


def check_ray_folder() -> None:
    """Raise ConfigError, naming the variable to set, if Ray would fail with this folder."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    folder = os.environ.get(name) or "/tmp"
    remedy = "set RAY_TMPDIR to a short full path that can be written to, such as /tmp"
    if not os.path.isabs(folder):
        raise ConfigError(f"{name} is {shown(folder)}, and Ray needs a full path: {remedy}.")
    if not folder.isascii():
        raise ConfigError(f"{name} is {shown(folder)}, and Ray can't use a path with letters beyond ASCII: {remedy}.")
    if len(folder.rstrip("/") + _BELOW) > _LONGEST_SOCKET:
        most = _LONGEST_SOCKET - len(_BELOW)
        raise ConfigError(f"{name} is {folder}, and Ray can't use a path of more than {most} characters: {remedy}.")
    try:
        os.makedirs(os.path.join(folder, "ray"), exist_ok=True)
        tempfile.TemporaryFile(dir=os.path.join(folder, "ray")).close()
    except OSError as error:
        raise ConfigError(
            f"{name} is {folder}, where Ray can't make its folder ({first_line(error)}): {remedy}."
        ) from None


def check_address(address: str, name: str) -> None:
    """Raise ConfigError for an address that can't be a Ray cluster's; `name` is the key or variable that holds it."""
    scheme, separator, _ = address.partition("://")
    if separator and scheme != "ray":
        also = " (that of a dashboard is for p2pz submit --address)" if scheme in ("http", "https") else ""
        raise ConfigError(
            f"{name} is {address}, which is no address of a Ray cluster{also}: set it to ray://HOST:10001 or "
            f"HOST:6379, or {'leave it out' if name == 'ray.address' else 'unset it'} to start Ray on this machine."
        )
