"""Finds and fetches a checkpoint's files, and fingerprints their contents."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import fsspec
from filelock import FileLock

from p2pz_ray.editing.checkpoint.lora import Lora
from p2pz_ray.editing.checkpoint.single_file import SingleFile
from p2pz_ray.editing.checkpoint.weights import HALVES, PARTS, TEXT, wanted
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.hub import patiently

# p2pz_ray.mini.MODEL, without importing that package.
MINI = Path(__file__).parents[2] / "mini" / "model"
CACHE = Path("~/.cache/p2pz_ray/models")
"""Copies of checkpoints from URIs, and folders made from single files; P2PZ_CACHE names another folder."""


def is_here(model: str) -> bool:
    """Whether a checkpoint's name means a folder on this machine."""
    return model == "mini" or Path(model).expanduser().is_dir()


def locate(
    model: str | os.PathLike[str],
    revision: str | None = None,
    half: bool = False,
    parts: Sequence[str] | None = PARTS,
    layout: str | None = None,
) -> Path:
    """The local folder of a checkpoint.

    `model` is "mini", a folder in StableDiffusionPipeline layout, its URI, a hub id, or a single .safetensors file or
    its URI. A single file is unpacked to a folder in the cache, with the configurations of another checkpoint, its
    `layout`.

    A checkpoint that isn't local is first copied into a cache (from the hub, into the hub client's own): the
    configurations, and the weights of `parts`, where None means every part and an empty sequence no weights. For `half`
    precision the half-precision variants are taken where they exist. If several processes of a machine need a
    checkpoint, one fetches it.

    Raises ConfigError if the folder has no `model_index.json`, or the storage or the hub can't be reached.
    """
    name = os.fspath(model)
    if name.endswith((".ckpt", ".pt", ".pth")):
        raise ConfigError(
            f"model {name} is a pickle, which can run code when it is loaded: convert it to .safetensors, or to a "
            "folder with diffusers' StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if name.endswith(".safetensors"):
        return _unpacked(name, layout, parts)
    if layout is not None:
        raise ConfigError(
            f"model.layout is {layout}, but model {name} isn't a .safetensors file and has its own layout: omit it"
        )
    if "://" in name:
        return _fetched(name, half, parts)
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
    return _from_hub(name, revision, half, parts)


def locate_vae(model: str, half: bool = False, weights: bool = True) -> Path:
    """The local folder of an autoencoder. `model` is that folder, a checkpoint's folder with a "vae" in it, or the hub
    id of either. Without `weights` only its configuration is fetched.

    Raises ConfigError if there is no autoencoder.
    """
    folder = Path(model).expanduser()
    if not folder.exists() and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        folder = _from_hub(model, None, half, ("", "vae") if weights else ())
    for place in (folder, folder / "vae"):
        if (place / "config.json").is_file():
            return place
    raise ConfigError(f"model.vae {model} isn't an autoencoder's folder: it has no config.json")


def _from_hub(name: str, revision: str | None, half: bool, parts: Sequence[str] | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        try:
            info = patiently(lambda: HfApi().model_info(name, revision=revision))
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except Exception:  # no network, or a hub that fails: the cache may still have the checkpoint
            for file in ("model_index.json", "config.json"):
                cached = try_to_load_from_cache(name, file, revision=revision)
                if isinstance(cached, str):
                    return Path(cached).parent
            raise
        files = wanted([file.rfilename for file in info.siblings or []], half, name, parts)
        return Path(patiently(lambda: snapshot_download(name, revision=revision, allow_patterns=files)))
    except ConfigError:
        raise
    except GatedRepoError as error:
        raise ConfigError(
            f"model {name!r} is gated: accept its terms on its page on the hub, and set HF_TOKEN to a token of yours"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"model {name!r} has no revision {revision}: give a commit or a branch of it") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"model {name!r} is neither a folder here nor on the hub, or it is private: check its name, or set HF_TOKEN"
        ) from error
    except Exception as error:  # the hub client raises a dozen kinds of errors
        raise ConfigError(
            f"model {name!r} is neither a folder here nor in the hub client's cache, and the hub can't be reached "
            f"({type(error).__name__}): set `model` to a local folder, or HF_HOME to a cache that holds it"
        ) from error


def _fetched(uri: str, half: bool, parts: Sequence[str] | None) -> Path:
    """A copy of a checkpoint on this machine; a new one if a file at the URI has changed."""
    try:
        fs, root = fsspec.core.url_to_fs(uri.rstrip("/"))
        files = {path.removeprefix(f"{root}/"): info for path, info in fs.find(root, detail=True).items()}
        if "model_index.json" not in files:
            raise ConfigError(f"model {uri} is not a Stable Diffusion folder: it has no model_index.json")
        versions = sorted(f"{path}:{[str(info.get(key)) for key in _VERSION]}" for path, info in files.items())
        digest = hashlib.sha256("\n".join([uri, *versions]).encode()).hexdigest()[:16]
        cache = _cache()
        folder = cache / digest
        missing = [name for name in wanted(list(files), half, uri, parts) if not (folder / name).exists()]
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{digest}.lock"):  # another process on this machine may be fetching them
                for name in missing:
                    _copy(fs, f"{root}/{name}", folder / name)
    except (OSError, ValueError, ImportError) as error:
        reason = first_line(error)
        raise ConfigError(f"model {uri} can't be fetched ({reason}): check the URI and the rights to it") from error
    return folder


def _unpacked(name: str, layout: str | None, parts: Sequence[str] | None) -> Path:
    """The folder that a single file is unpacked to, once on each machine. Unless `parts` is empty it has the weights of
    every part that an edit needs."""
    file = _single(name)
    single = SingleFile.read(file)
    if layout is None:
        family, layout = single.family
        try:
            source = locate(layout, parts=())
        except ConfigError as error:
            raise ConfigError(
                f"model {name} is a single file of {family}, which contains no configurations, and those of {layout} "
                "can't be fetched: set model.layout to the folder or hub id of another checkpoint of its family "
                f"({error})"
            ) from error
    else:
        source = locate(layout, parts=())
    texts = single.layout(source)
    state = file.stat()
    key = json.dumps([str(file.resolve()), state.st_size, state.st_mtime_ns, sorted(texts.items())])
    folder = _cache() / hashlib.sha256(key.encode()).hexdigest()[:16]
    _cache().mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "model_index.json").exists():
            single.check(source)
            for path, text in texts.items():  # model_index.json comes last: if it exists, the others do
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
        if parts is None or parts:
            for part in PARTS:
                target = (
                    folder / part / ("model.safetensors" if part in TEXT else "diffusion_pytorch_model.safetensors")
                )
                if target.parent.is_dir() and not target.exists():
                    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                        single.write(folder, part, Path(scratch, target.name))
                        Path(scratch, target.name).rename(target)
    return folder


def _single(name: str) -> Path:
    """The path of a single file on this machine; it is fetched if `name` is a URI."""
    if "://" not in name:
        file = Path(name).expanduser()
        if not file.is_file():
            raise ConfigError(f"model {name} isn't a file on this machine: check its path")
        return file
    try:
        fs, path = fsspec.core.url_to_fs(name)
        version = str([str(fs.info(path).get(key)) for key in _VERSION])
        file = _cache() / f"{hashlib.sha256(f'{name}{version}'.encode()).hexdigest()[:16]}.safetensors"
        _cache().mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            _copy(fs, path, file)
    except (OSError, ValueError, ImportError) as error:
        reason = first_line(error)
        raise ConfigError(f"model {name} can't be fetched ({reason}): check the URI and the rights to it") from error
    return file


def _cache() -> Path:
    return Path(os.environ.get("P2PZ_CACHE", CACHE)).expanduser()


_VERSION = ("size", "ETag", "generation", "mtime", "LastModified")
"""The fields of a storage's listing that change when a file does."""


def _copy(fs: fsspec.AbstractFileSystem, path: str, target: Path) -> None:
    """Copy a file unless the target exists. The copy is atomic: it appears complete or not at all."""
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fs.get_file(path, f"{scratch}/{target.name}")
        Path(scratch, target.name).rename(target)


# The files that are read when a part of a checkpoint is loaded.
_LOADED = re.compile(
    r"(config|scheduler_config|vocab|merges|tokenizer|tokenizer_config|special_tokens_map|added_tokens|preprocessor_config)\.(json|txt)"
    r"|spiece\.model|chat_template\.jinja"
    r"|(?P<weights>diffusion_pytorch_model|model)(?P<variant>\.(fp16|bf16))?(-\d+-of-\d+)?"
    r"\.safetensors(\.index(?P<of>\.(fp16|bf16))?\.json)?"
)
_HALVES = tuple(f".{name}" for name in HALVES)
_NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")


def fingerprint(folder: Path, half: bool = False) -> str:
    """16 hex digits that name a checkpoint's contents, the same on every machine.

    They cover every byte that loading it reads, in `half` precision or not, and nothing else: no other variant, no
    safety checker, no documentation.
    """
    notes = [folder / name for name in ("model_index.json", "editing.json") if (folder / name).is_file()]
    index = json.loads(notes[0].read_text()) if notes and notes[0].name == "model_index.json" else {"": ["a part", ""]}
    parts = (part for part, kind in index.items() if isinstance(kind, list) and kind[0] and part not in _NEVER_LOADED)
    files = [file for part in parts for file in _loaded(folder / part, half and part not in TEXT)] + notes
    digest = hashlib.sha256()
    for file in sorted(files):
        state = file.stat()
        digest.update(f"{file.relative_to(folder).as_posix()}:".encode())
        digest.update(_sha256(file.resolve(), state.st_size, state.st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def _loaded(part: Path, half: bool) -> list[Path]:
    """The files that a part is loaded from: its configurations, and the weights of one variant."""
    files = {file: match for file in part.glob("*") if (match := _LOADED.fullmatch(file.name)) is not None}
    variants = {match["variant"] or match["of"] for match in files.values() if match["weights"]}
    order = (*_HALVES, None) if half else (None, *_HALVES)
    chosen = next((variant for variant in order if variant in variants), None)
    return [f for f, match in files.items() if (match["variant"] or match["of"]) == chosen or not match["weights"]]


@lru_cache(maxsize=1024)
def _sha256(file: Path, size: int, changed: int) -> str:
    """A file's sha256. It is read again only if its size or its modification time has changed."""
    if file.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", file.name):
        return file.name  # the hub's client names a file after its sha256
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def identity(folder: Path, vae: Path | None = None, loras: Sequence[Lora] = (), half: bool = False) -> str:
    """The fingerprint of a checkpoint together with the autoencoder and the LoRAs that change it."""
    if vae is None and not loras:
        return fingerprint(folder, half)
    parts = [fingerprint(folder, half), vae and fingerprint(vae, half), [lora.identity for lora in loras]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
