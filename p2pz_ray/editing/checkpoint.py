"""Where a checkpoint's files are, and what names their contents."""

import hashlib
import json
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path

import fsspec

from p2pz_ray.errors import ConfigError, first_line

# p2pz_ray.mini.MODEL, found without importing a neighbour.
MINI = Path(__file__).parents[1] / "mini" / "model"
CACHE = Path("~/.cache/p2pz_ray/models")
"""Copies of checkpoints that lie at URIs; P2PZ_CACHE names another folder."""


def locate(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder of a checkpoint: "mini", a folder in StableDiffusionPipeline layout, its URI, or a hub id.

    What isn't local is copied into a cache first (of a hub id only safetensors, into the hub client's own). Raises
    ConfigError where the folder has no `model_index.json`, or the storage or the hub can't be reached.
    """
    name = os.fspath(model)
    if "://" in name:
        return _fetched(name)
    folder = MINI if name == "mini" else Path(name).expanduser()
    if (folder / "model_index.json").is_file():
        return folder
    if name == "mini":
        raise ConfigError(f"the embedded model is missing from {folder}: reinstall the package")
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(
            f"model {name!r} is not a Stable Diffusion folder (it has no model_index.json): "
            'give "mini", a folder saved by StableDiffusionPipeline.save_pretrained, or a hub id like owner/name'
        )
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
    other = ["safety_checker/*", "*.fp16.safetensors", "*.non_ema.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=other))
    except Exception as error:  # the hub client raises a dozen kinds, for offline, absent and forbidden alike
        raise ConfigError(
            f"model {name!r} is neither a folder here nor a hub repository that can be reached "
            f"({type(error).__name__}): set `model` to a local folder, or HF_HOME to a cache that holds it"
        ) from error


def _fetched(uri: str) -> Path:
    """A checkpoint's copy on this machine, made anew when a file at the URI has changed."""
    try:
        fs, root = fsspec.core.url_to_fs(uri.rstrip("/"))
        files = fs.find(root, detail=True)
        if not any(path == f"{root}/model_index.json" for path in files):
            raise ConfigError(f"model {uri} is not a Stable Diffusion folder: it has no model_index.json")
        keys = ("size", "ETag", "generation", "mtime", "LastModified")
        versions = sorted(f"{path}:{[str(info.get(key)) for key in keys]}" for path, info in files.items())
        digest = hashlib.sha256("\n".join([uri, *versions]).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("P2PZ_CACHE", CACHE)).expanduser()
        folder = cache / digest
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                fresh = Path(scratch, "model")
                for path in files:
                    target = fresh / path.removeprefix(f"{root}/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    fs.get_file(path, str(target))
                try:
                    fresh.rename(folder)
                except OSError:
                    # Another process of this machine was faster, and its copy is as good.
                    if not folder.exists():
                        raise
    except (OSError, ValueError, ImportError) as error:
        reason = first_line(error)
        raise ConfigError(f"model {uri} can't be fetched ({reason}): check the URI and the rights to it") from error
    return folder


# What loading a part of a checkpoint reads of its folder; a variant's files have one word more in their names.
_LOADED = re.compile(
    r"(config|scheduler_config|vocab|merges|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.(json|txt)"
    r"|(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
)
_NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")


def fingerprint(folder: Path) -> str:
    """16 hex digits that name a checkpoint's contents, the same on every machine.

    All that loading it reads counts, to the last byte, and nothing else: no variant, no safety checker, no notes.
    """
    index = json.loads((folder / "model_index.json").read_text())
    parts = (part for part, made in index.items() if isinstance(made, list) and made[0] and part not in _NEVER_LOADED)
    files = [file for part in parts for file in (folder / part).glob("*") if _LOADED.fullmatch(file.name)]
    files += [folder / name for name in ("model_index.json", "editing.json") if (folder / name).is_file()]
    digest = hashlib.sha256()
    for file in sorted(files):
        state = file.stat()
        digest.update(f"{file.relative_to(folder).as_posix()}:".encode())
        digest.update(_sha256(file.resolve(), state.st_size, state.st_mtime_ns).encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)
def _sha256(file: Path, size: int, changed: int) -> str:
    """Of a whole file, read once as long as its size and its time of change stay."""
    if file.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", file.name):
        return file.name  # the hub's client calls a file by its sha256
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
