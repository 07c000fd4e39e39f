"""The edits in a run's rows, with their strengths and directions."""

from collections.abc import Iterable, Mapping, Sequence

from p2pz_ray.commit.folder import INGREDIENTS, RunFolder
from p2pz_ray.config.edits import base_name
from p2pz_ray.engines.direction import load_direction
from p2pz_ray.errors import ConfigError
from p2pz_ray.student.repertoire import Parts, Repertoire, Skill


def parts_of_run(folder: RunFolder) -> dict[str, Parts]:
    """A run's name for an edit → the edits that such rows show, each at its strength.

    A run names an edit differently at each strength, cat2dog-50 and cat2dog-100: both are cat2dog here.
    """
    edits = (folder.config() or {}).get("edits") or {}
    strengths = {name: float(edit.get("strength", 1.0)) for name, edit in edits.items()}
    by_name: dict[str, Parts] = {}
    for name, edit in edits.items():
        shares = {part: strengths[part] for part in edit["compose"]} if edit.get("compose") else {name: 1.0}
        by_name[name] = {base_name(part, strengths[part]): share * strengths[name] for part, share in shares.items()}
    return by_name


def repertoire(folders: Sequence[RunFolder], combinations: Iterable[Parts]) -> Repertoire:
    """The repertoire of a student trained on these combinations: each edit with its direction, the mean over its
    tokens scaled to length 1.

    Where the directions are unknown (a student's run has none, nor do tables), each edit gets its own axis.
    Raises ConfigError if two runs have different directions under one name.
    """
    strongest: dict[str, float] = {}
    for parts in combinations:
        for name, strength in parts.items():
            strongest[name] = max(strongest.get(name, 0.0), strength)
    names = sorted(strongest)
    directions = _directions(folders) if folders else {}
    if not all(name in directions for name in names):
        directions = {name: [float(name == other) for other in names] for name in names}
    return Repertoire({name: Skill(tuple(directions[name]), strongest[name]) for name in names})


def _directions(folders: Sequence[RunFolder]) -> Mapping[str, Sequence[float]]:
    directions: dict[str, Sequence[float]] = {}
    digests: dict[str, tuple[str, str]] = {}
    for folder in folders:
        run_digests = (folder.read_json(INGREDIENTS) or {}).get("directions") or {}
        for name, parts in parts_of_run(folder).items():
            if len(parts) > 1 or name not in run_digests:
                continue
            [edit] = parts
            digest, other = digests.setdefault(edit, (run_digests[name], folder.store.uri))
            if digest != run_digests[name]:
                raise ConfigError(
                    f"{edit} is one direction in {other} and another in {folder.store.uri}: train on one of the two."
                )
            direction = load_direction(folder, name) if edit not in directions else None
            if direction is not None:
                mean = direction.embedding.mean(0)
                directions[edit] = (mean / mean.norm()).tolist()
    return directions
