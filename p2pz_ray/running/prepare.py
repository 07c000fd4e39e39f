"""What a translation works from, made sure of before Ray starts: what can be known to be wrong fails here."""

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pz_ray.collection.manifest import INGREDIENTS, RunFolder
from p2pz_ray.collection.partition import Plan
from p2pz_ray.collection.plan import make_plan
from p2pz_ray.config import TranslateConfig, difference, fingerprint, record
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint import fingerprint as model_fingerprint
from p2pz_ray.editing.checkpoint import locate
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.checkpoint import load_pretrained
from p2pz_ray.running.direction import edit_directions, load_direction, save_direction
from p2pz_ray.running.job import Job, columns_of
from p2pz_ray.student import Student


def prepare(config: TranslateConfig) -> tuple[Job, Plan] | None:
    """Check everything, write the run's folder but for its data, and return what is to be done.

    None where the run is finished already. Nothing is written before everything is checked; a folder that holds a run
    goes on with that run's own directions. Raises ConfigError naming what is wrong, and for a folder that holds the
    run of another configuration every key that differs.
    """
    config = _absolute(config)
    folder = RunFolder(config.output, config.output_storage_options)
    recorded = folder.config()
    if recorded is not None:
        _refuse_difference(config, recorded)
        if folder.finished and config.input.new == "ignore":
            return None
    elif folder.store.list("data"):
        raise ConfigError(f"{config.output} holds data/ of something that is no run: choose another output.")
    if f"{config.output}/".startswith(f"{config.input.uri.rstrip('/')}/"):
        raise ConfigError(f"output {config.output} lies inside input.uri {config.input.uri}: choose another output.")
    if f"{config.inversion.cache}/".startswith(f"{config.input.uri.rstrip('/')}/"):
        raise ConfigError(f"inversion.cache {config.inversion.cache} lies inside input.uri: choose another place.")
    plan, more = _plan(config, folder)
    if folder.finished and not more.partitions:
        return None
    if config.student is not None:
        given = _student(config)
    else:
        given = _diffusion(config, folder if recorded is not None else None)
    before = folder.read_json(INGREDIENTS)
    if before is not None:
        _refuse(config.output, _changed_ingredients(config, before, given.ingredients))
    # Another driver may have begun the same run meanwhile: of each file the first one stands, and is what counts.
    recorded = folder.create_config(record(config))
    _refuse_difference(config, recorded)
    if not folder.store.exclusive("config.yaml"):
        print(
            f"{config.output} is on a storage that puts over a file even where asked not to: run one driver at a time, "
            "since of two each might count a partition of its own.",
            file=sys.stderr,
        )
    for direction in given.directions.values():
        save_direction(folder, direction)
    ingredients = folder.create_json(INGREDIENTS, given.ingredients)
    _refuse(config.output, _changed_ingredients(config, ingredients, given.ingredients))
    plan = folder.create_plan(plan) if not more.partitions else plan
    if more.partitions:
        folder.append(more)
        print(f"{more.images:,} new images are appended to {config.output}.", file=sys.stderr)
    return Job(given.config, given.size, _together(fingerprint(recorded), ingredients), ingredients), plan + more


@dataclass(frozen=True)
class _Given:
    """What a translation edits with.

    size: (H, W) pixels. ingredients: what names its contents. config: the configuration that replicas are given.
    directions: those that the run's folder has yet to be given.
    """

    size: tuple[int, int]
    ingredients: dict[str, Any]
    config: TranslateConfig
    directions: dict[str, EditDirection] = field(default_factory=dict)


def _diffusion(config: TranslateConfig, begun: RunFolder | None) -> _Given:
    """A checkpoint and a direction for each edit, the run's own where it was begun and has them."""
    checkpoint = locate(config.model.name, config.model.revision)
    size = _size(config, checkpoint)
    if config.captions.model is not None:
        from transformers import AutoConfig

        load_pretrained(AutoConfig, config.captions.model.name, config.captions.model.revision, "captions.model")
    held = {} if begun is None else {name: load_direction(begun, name) for name in config.edits}
    kept = {name: direction for name, direction in held.items() if direction is not None}
    directions = edit_directions(config.edits, TextEncoder.load(checkpoint), kept)
    ingredients = {
        "model": model_fingerprint(checkpoint),
        "directions": {name: direction.digest for name, direction in directions.items()},
    }
    fresh = {name: direction for name, direction in directions.items() if name not in kept}
    return _Given(size, ingredients, _pinned(config, checkpoint), fresh)


def _student(config: TranslateConfig) -> _Given:
    """A student, which has its size and its edit."""
    assert config.student is not None
    student, [name] = Student.from_pretrained(config.student, "cpu"), config.edits
    size = (student.size, student.size)
    if config.image.size not in (None, size):
        raise ConfigError(f"image.size is {list(config.image.size or ())}, but the student takes {list(size)}.")
    if student.edit not in (None, name):
        raise ConfigError(f"edits names {name}, but the student {config.student} makes {student.edit}: name it so.")
    return _Given(size, {"student": student.digest}, config)


def _plan(config: TranslateConfig, folder: RunFolder) -> tuple[Plan, Plan]:
    """The run's plan, for a new run that of the collection as it is now; and what is to be appended to it."""
    given, before = config.input, folder.plan()
    if before is not None and given.new == "ignore":
        return before, Plan(())
    made = make_plan(
        given.uri,
        columns_of(config),
        given.storage_options,
        given.images_per_partition,
        given.max_images,
        after=before,
        outside=[uri for uri in (config.output, config.inversion.cache) if uri is not None],
        skip_unreadable=given.unreadable == "skip",
    )
    for reason in dict(made.unreadable).values():
        print(f"Left out: {reason}", file=sys.stderr)
    return (made, Plan(())) if before is None else (before, made)


def _size(config: TranslateConfig, checkpoint: Path) -> tuple[int, int]:
    """(H, W) pixels to translate at; ConfigError for what the model can't halve as often as it does."""
    unet, vae = (_model_config(checkpoint / part / "config.json") for part in ("unet", "vae"))
    factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    step = factor * 2 ** (len(unet.get("block_out_channels", [0] * 4)) - 1)
    side = int(unet.get("sample_size") or 64) * factor
    size = config.image.size or (side, side)
    if any(length % step for length in size):
        raise ConfigError(f"image.size is {list(size)}: the model needs height and width in multiples of {step}.")
    return size


def _model_config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} can't be read ({error}): the model's folder is incomplete, so fetch it again."
        ) from error
    return found if isinstance(found, dict) else {}


def _pinned(config: TranslateConfig, checkpoint: Path) -> TranslateConfig:
    """With the commit at which a hub's checkpoint was found here, so that replicas load that one and no later one."""
    if checkpoint.parent.name != "snapshots":  # where the hub's client keeps commits
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"revision": checkpoint.name})})


def _absolute(config: TranslateConfig) -> TranslateConfig:
    """Replicas may stand in another folder than the driver, so local paths are made absolute."""
    model, given, inversion = config.model, config.input, config.inversion
    if Path(model.name).expanduser().is_dir() and model.name != "mini":
        model = model.model_copy(update={"name": _absolute_uri(model.name)})
    follow = [_absolute_uri(uri) for uri in given.follow]
    given = given.model_copy(update={"uri": _absolute_uri(given.uri), "follow": follow})
    if inversion.cache is not None:
        inversion = inversion.model_copy(update={"cache": _absolute_uri(inversion.cache)})
    student = None if config.student is None else _absolute_uri(config.student)
    changed = {"model": model, "student": student, "input": given, "inversion": inversion}
    changed["output"] = _absolute_uri(config.output)
    return config.model_copy(update=changed)


def _absolute_uri(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _changed_ingredients(config: TranslateConfig, standing: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What differs, but for directions of words: those of the run count, since a language model's sentences differ each
    time."""
    kept = dict(standing.get("directions", {}))
    files = {name for name, edit in config.edits.items() if edit.direction is not None}
    named = {name: digest for name, digest in own.get("directions", {}).items() if name in files or name not in kept}
    mine = own if "directions" not in own else own | {"directions": kept | named}
    return difference(standing, mine)


def _refuse_difference(config: TranslateConfig, recorded: dict[str, Any]) -> None:
    """Of what was recorded before a key existed, the key's default counts."""
    with suppress(ValueError):  # what an older version recorded may be no configuration any more: then as it stands
        recorded = record(TranslateConfig.model_validate(recorded))
    _refuse(config.output, difference(recorded, record(config)))


def _refuse(output: str, keys: list[str]) -> None:
    if keys:
        raise ConfigError(
            f"{output} holds a run of another configuration: {'; '.join(keys)}. Set it back, or choose another output."
        )


def _together(config: str, ingredients: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([config, ingredients], sort_keys=True).encode()).hexdigest()[:16]
