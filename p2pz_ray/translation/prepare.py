"""What a translation works from, made sure of before Ray starts: what can be known to be wrong fails here."""

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from p2pz_ray.collection.partition import Plan
from p2pz_ray.collection.plan import make_plan
from p2pz_ray.commit.folder import INGREDIENTS, RunFolder
from p2pz_ray.config import TranslateConfig, difference, fingerprint, record
from p2pz_ray.config.engine import EngineConfig
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint.files import fingerprint as model_fingerprint
from p2pz_ray.editing.checkpoint.files import identity, is_here, locate
from p2pz_ray.editing.checkpoint.kind import read_json
from p2pz_ray.editing.control import check_control
from p2pz_ray.editing.pipeline import check_arguments, check_folder, pipeline_kind
from p2pz_ray.engines.checked import are_here, checked_checkpoint, picture_size
from p2pz_ray.engines.direction import load_direction, recipe, save_direction
from p2pz_ray.engines.engine import controls_of
from p2pz_ray.engines.job import Job, columns_of
from p2pz_ray.engines.precision import in_half
from p2pz_ray.engines.safety import check_safety
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.checkpoint import load_pretrained
from p2pz_ray.patience import doing
from p2pz_ray.storage.inside import lies_inside
from p2pz_ray.storage.store import Store
from p2pz_ray.student import Student
from p2pz_ray.translation.absolute import absolute
from p2pz_ray.translation.ingredients import Ingredients, Wanted, found_here
from p2pz_ray.translation.provenance import signer

Find = Callable[[Wanted], Ingredients]
"""What finds the ingredients: this process, or one where the replicas will be."""


def prepare(config: TranslateConfig, find: Find = found_here) -> tuple[Job, Plan] | None:
    """Check everything, write the run's folder but for its data, and return what is to be done. What needs the
    model's weights is left to `find`, and asked for when all else is known to be right.

    None where the run is finished already. Nothing is written before everything is checked; a folder that holds a run
    goes on with that run's own directions. Raises ConfigError naming what is wrong, and for a folder that holds the
    run of another configuration every key that differs.
    """
    config = absolute(config)
    folder = RunFolder(config.output, config.output_storage_options)
    recorded = folder.config()
    if recorded is not None:
        _refuse_difference(config, recorded)
        if folder.finished and config.input.new == "ignore":
            return None
    elif folder.store.list("data"):
        raise ConfigError(f"{config.output} holds data/ of something that is no run: choose another output.")
    source = Store(config.input.uri, config.input.storage_options)
    if lies_inside(folder.store, source):
        raise ConfigError(f"output {config.output} lies inside input.uri {config.input.uri}: choose another output.")
    cache = config.inversion.cache
    if cache is not None and lies_inside(Store(cache, config.inversion.cache_storage_options), source):
        raise ConfigError(f"inversion.cache {cache} lies inside input.uri {config.input.uri}: choose another place.")
    signer(config)
    begun = folder.plan()
    plan, more, config = _plan(config, folder, begun)
    if folder.finished and not more.partitions:
        return None
    given = _given(config, folder if recorded is not None else None, find)
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
    if more.partitions:
        plan = folder.append(more)
        print(f"{more.images:,} new images are appended to {config.output}.", file=sys.stderr)
    elif begun is None:
        plan = folder.create_plan(plan)
    return Job(given.config, given.size, _together(fingerprint(recorded), ingredients), ingredients), plan


def unplanned(config: TranslateConfig) -> Job:
    """A job without a collection, for pictures that are handed to it; its directions are made here, where they will be
    used, and written to `config.output`. Raises ConfigError as `prepare` does."""
    config = absolute(config)
    folder = RunFolder(config.output, config.output_storage_options)
    given = (
        _student(config)
        if config.student is not None
        else _diffusion(config, None, partial(found_here, device=config.device))
    )
    for direction in given.directions.values():
        save_direction(folder, direction)
    folder.create_json(INGREDIENTS, given.ingredients)
    return Job(given.config, given.size, _together(fingerprint(config), given.ingredients), given.ingredients)


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


def _given(config: TranslateConfig, begun: RunFolder | None, find: Find) -> _Given:
    """By whichever engine the configuration names."""
    if config.safety is not None:
        check_safety(config.safety)
    if config.student is not None:
        return _student(config)
    if config.captions.model is not None:
        from transformers import AutoConfig

        load_pretrained(AutoConfig, config.captions.model.name, config.captions.model.revision, "captions.model")
    return _diffusion(config, begun, find) if config.engine is None else _pipeline(config, config.engine, find)


def _diffusion(config: TranslateConfig, begun: RunFolder | None, find: Find) -> _Given:
    """A checkpoint and a direction for each edit, the run's own where it was begun and has them."""
    checkpoint, vae, loras = checked_checkpoint(config)
    size = picture_size(config.image.size, checkpoint)
    config = _pinned(config, checkpoint)
    held = {} if begun is None else {name: load_direction(begun, name) for name in config.edits}
    kept = {name: direction for name, direction in held.items() if direction is not None}
    unet, controls = read_json(checkpoint / "unet" / "config.json"), controls_of(config)
    for control in controls:
        check_control(control.folder, unet)
    known = identity(checkpoint, vae, loras, in_half(config)) if are_here(config.model) else None
    wanted = Wanted(config.model, config.dtype, known, recipe(config.edits, kept), deterministic=config.deterministic)
    found = (found_here if wanted.complete else find)(wanted)
    ingredients: dict[str, Any] = {
        "model": found.identity,
        "directions": {name: direction.digest for name, direction in found.directions.items()},
    }
    if controls:
        ingredients["conditions"] = [model_fingerprint(control.folder) for control in controls]
    fresh = {name: direction for name, direction in found.directions.items() if name not in kept}
    return _Given(size, ingredients, config, fresh)


def _pipeline(config: TranslateConfig, engine: EngineConfig, find: Find) -> _Given:
    """A pipeline of diffusers' own and its checkpoint, which is told words and needs no directions."""
    kind = pipeline_kind(engine.pipeline)
    check_arguments(kind, engine.arguments)
    checkpoint = locate(config.model.name, config.model.revision, in_half(config), (), config.model.layout)
    check_folder(kind, checkpoint)
    if (checkpoint / "unet").is_dir():
        size = picture_size(config.image.size, checkpoint)
    elif config.image.size is not None:
        size = config.image.size
    else:
        raise ConfigError(f"image.size is missing: {engine.pipeline} doesn't say what it was trained at, so set it.")
    config = _pinned(config, checkpoint)
    known = identity(checkpoint, half=in_half(config)) if is_here(config.model.name) else None
    wanted = Wanted(config.model, config.dtype, known, recipe({}, {}), parts=None)
    return _Given(size, {"model": (found_here if wanted.complete else find)(wanted).identity}, config)


def _student(config: TranslateConfig) -> _Given:
    """A student, which has its size and its edits."""
    assert config.student is not None
    student = Student.from_pretrained(config.student, "cpu")
    size = (student.size, student.size)
    if config.image.size not in (None, size):
        raise ConfigError(f"image.size is {list(config.image.size or ())}, but the student takes {list(size)}.")
    if len(config.edits) > 1 and not student.repertoire.width:
        raise ConfigError(
            f"student makes one edit, {student.repertoire}, but edits names {', '.join(config.edits)}: keep one."
        )
    for name in config.edits:
        try:
            student.repertoire.parts(config.parts_of(name))
        except ConfigError as error:
            raise ConfigError(f"edits.{name} is not for the student {config.student}: {error}") from None
    return _Given(size, {"student": student.digest}, config)


def _plan(config: TranslateConfig, folder: RunFolder, before: Plan | None) -> tuple[Plan, Plan, TranslateConfig]:
    """The run's plan: the one `before`, or for a new run that of the collection as it is now; what is to be appended to
    it; and the configuration with the images in a partition that it took."""
    given = config.input
    if before is not None and given.new == "ignore":
        return before, Plan(()), config
    recorded = {} if before is None else (folder.config() or {}).get("input") or {}
    made, images = make_partitions(config, recorded.get("images_per_partition"), before)
    for reason in dict(made.unreadable).values():
        print(f"Left out: {reason}", file=sys.stderr)
    config = config.model_copy(update={"input": given.model_copy(update={"images_per_partition": images})})
    return (made, Plan(()), config) if before is None else (before, made, config)


def make_partitions(config: TranslateConfig, images: int | None = None, after: Plan | None = None) -> tuple[Plan, int]:
    """The plan of a configuration's collection, or of what came `after` another plan, of `images` in a partition; and
    that number.

    None: as many as it says, or fewer where some of its replicas would have nothing to do.
    """
    given = config.input

    def cut(per_partition: int) -> tuple[Plan, int]:
        with doing(f"Reading the collection {given.uri}"):
            made = make_plan(
                given.uri,
                columns_of(config),
                given.storage_options,
                per_partition,
                given.max_images,
                after=after,
                outside=[uri for uri in (config.output, config.inversion.cache) if uri is not None],
                skip_unreadable=given.unreadable == "skip",
            )
        return made, per_partition

    plan, used = cut(images or given.images_per_partition)
    replicas = config.replicas.bounds[1]
    if images is None and len(plan.partitions) < min(replicas, plan.images):
        plan, used = cut(plan.images // replicas or 1)
    return plan, used


def _pinned(config: TranslateConfig, checkpoint: Path) -> TranslateConfig:
    """With the commit at which a hub's checkpoint was found here, so that replicas load that one and no later one."""
    if checkpoint.parent.name != "snapshots":  # where the hub's client keeps commits
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"revision": checkpoint.name})})


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
