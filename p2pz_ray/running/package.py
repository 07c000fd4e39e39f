"""The package sent to a cluster with a job: a folder's files, without those no job needs, as one zip file."""

import io
import os
import zipfile
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.failure import shown

EXCLUDED = (
    ".git .hg .svn .venv venv node_modules __pycache__ *.py[co] *.egg-info .*_cache .hypothesis .ipynb_checkpoints "
    ".env .env.* .aws .ssh .netrc *.pem /build /dist /demo /runs /data /checkpoints /wandb /mlruns"
)
"""Files that are never sent, as .gitignore patterns, in addition to those of .gitignore and .rayignore files."""
SENT = ("p2pz_ray", "configs", "jobs")
"""The folders that are sent; other files are sent only if a command names them."""
LARGEST = 100 << 20
"""Size limit of a request to a cluster's Jobs API, in bytes."""

_Rules = list[tuple[Path, GitIgnoreSpec]]


def files_to_send(folder: Path, named: Sequence[str] = ()) -> dict[str, Path]:
    """Name in the package → file, for all files to send from a folder: those in `SENT`, those that are `named`, and
    this very package if the folder doesn't have it. Links to folders aren't followed.

    Raises ConfigError if that is more than a cluster accepts.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}: set --working-dir to the one to send.")
    sent = [*SENT, *named]
    allowed = {name.partition("/")[0] for name in sent}
    found = _walk(folder, folder, [_rules(folder, EXCLUDED.split())], allowed)
    files = {name: file for name, file in found if any(f"{name}/".startswith(f"{part}/") for part in sent)}
    if "p2pz_ray/__init__.py" not in files:
        own = Path(__file__).parents[1]
        files |= {f"p2pz_ray/{name}": file for name, file in _walk(own, own, [_rules(own, EXCLUDED.split())])}
    for name in files:
        if not _is_utf8(name):
            raise ConfigError(
                f"{folder} has a file {shown(name)}, whose name isn't UTF-8 and can't be sent: rename it, or name "
                "it in .rayignore."
            )
    sizes = {name: file.stat().st_size for name, file in files.items()}
    if sum(sizes.values()) > LARGEST:
        tops: Counter[str] = Counter()
        for name, size in sizes.items():
            tops[name.partition("/")[0]] += size
        largest = ", ".join(f"{name} ({megabytes(size)})" for name, size in tops.most_common(3))
        raise ConfigError(
            f"{folder} has {megabytes(sum(sizes.values()))} to send, more than the {megabytes(LARGEST)} that a cluster "
            f"takes: name what is large in .rayignore ({largest}), or set --working-dir to another folder."
        )
    return files


def archive(files: dict[str, Path]) -> bytes:
    """A zip file with the same bytes for the same files, so that a cluster that has it isn't sent it again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, file in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if os.access(file, os.X_OK) else 0o644) << 16
            try:
                content = file.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"{file} can't be read, so it can't be sent ({first_line(error)}): give yourself the right, or "
                    "name it in .rayignore."
                ) from None
            package.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, root: Path, rules: _Rules, tops: Container[str] | None = None) -> Iterator[tuple[str, Path]]:
    """All files that the rules don't exclude; directly in `folder` only those in `tops`, if given."""
    try:
        for name in (".gitignore", ".rayignore"):
            if (folder / name).is_file():
                rules = [*rules, _rules(folder, (folder / name).read_text(errors="replace").splitlines())]
        children = sorted(folder.iterdir())
    except OSError as error:
        where = shown(str(error.filename or folder))
        raise ConfigError(
            f"{where} can't be read, so it can't be sent ({first_line(error)}): give yourself the right, or name it in "
            "a .rayignore beside it."
        ) from None
    for path in children:
        if tops is not None and path.name not in tops:
            continue
        below = path.is_dir() and not path.is_symlink()
        if any(spec.match_file(f"{path.relative_to(base).as_posix()}{'/' * below}") for base, spec in rules):
            continue
        if below:
            yield from _walk(path, root, rules)
        elif path.is_file():
            yield path.relative_to(root).as_posix(), path


def _rules(base: Path, lines: list[str]) -> tuple[Path, GitIgnoreSpec]:
    return base, GitIgnoreSpec.from_lines(lines)
