"""What a translation works from, made sure of before Ray starts: what can be known to be wrong fails here."""

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler

from p2pz_ray.collection.manifest import INGREDIENTS, RunFolder
from p2pz_ray.collection.partition import Plan
from p2pz_ray.collection.plan import make_plan
from p2pz_ray.collection.store import Store
from p2pz_ray.config import CheckpointConfig, TranslateConfig, difference, fingerprint, record
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint import identity, locate, locate_vae
from p2pz_ray.editing.kind import check_kind, read_json
from p2pz_ray.editing.lora import Lora
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.editing.schedule import Schedule
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.checkpoint import load_pretrained
from p2pz_ray.running.direction import edit_directions, load_direction, loras_of, save_direction
from p2pz_ray.running.engine import Modelled
from p2pz_ray.running.job import Job, columns_of
from p2pz_ray.running.translator import signer
from p2pz_ray.student import Student
from p2pz_ray.uri import lies_inside, unquoted


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
    source = Store(config.input.uri, config.input.storage_options)
    if lies_inside(folder.store, source):
        raise ConfigError(f"output {config.output} lies inside input.uri {config.input.uri}: choose another output.")
    cache = config.inversion.cache
    if cache is not None and lies_inside(Store(cache, config.inversion.cache_storage_options), source):
        raise ConfigError(f"inversion.cache {cache} lies inside input.uri {config.input.uri}: choose another place.")
    signer(config)
    plan, more, config = _plan(config, folder)
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


def unplanned(config: TranslateConfig) -> Job:
    """A job without a collection, for pictures that are handed to it; its directions are written to `config.output`.
    Raises ConfigError as `prepare` does."""
    config = _absolute(config)
    folder = RunFolder(config.output, config.output_storage_options)
    given = _student(config) if config.student is not None else _diffusion(config, None)
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


def _diffusion(config: TranslateConfig, begun: RunFolder | None) -> _Given:
    """A checkpoint and a direction for each edit, the run's own where it was begun and has them."""
    checkpoint, vae, loras = checked_checkpoint(config)
    size = picture_size(config.image.size, checkpoint)
    if config.captions.model is not None:
        from transformers import AutoConfig

        load_pretrained(AutoConfig, config.captions.model.name, config.captions.model.revision, "captions.model")
    held = {} if begun is None else {name: load_direction(begun, name) for name in config.edits}
    kept = {name: direction for name, direction in held.items() if direction is not None}
    directions = edit_directions(config.edits, TextEncoder.load(checkpoint, loras), kept)
    ingredients = {
        "model": identity(checkpoint, vae, loras),
        "directions": {name: direction.digest for name, direction in directions.items()},
    }
    fresh = {name: direction for name, direction in directions.items() if name not in kept}
    return _Given(size, ingredients, _pinned(config, checkpoint), fresh)


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


def _plan(config: TranslateConfig, folder: RunFolder) -> tuple[Plan, Plan, TranslateConfig]:
    """The run's plan, for a new run that of the collection as it is now; what is to be appended to it; and the
    configuration with the images in a partition that it took."""
    given, before = config.input, folder.plan()
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


def picture_size(wanted: tuple[int, int] | None, checkpoint: Path) -> tuple[int, int]:
    """(H, W) pixels to edit at, the model's own where `wanted` is None; ConfigError for what the model can't halve as
    often as it does."""
    unet, vae = (read_json(checkpoint / part / "config.json") for part in ("unet", "vae"))
    factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    step = factor * 2 ** (len(unet.get("block_out_channels", [0] * 4)) - 1)
    side = int(unet.get("sample_size") or 64) * factor
    size = wanted or (side, side)
    if any(length % step for length in size):
        raise ConfigError(f"image.size is {list(size)}: the model needs height and width in multiples of {step}.")
    return size


def checked_checkpoint(config: Modelled) -> tuple[Path, Path | None, list[Lora]]:
    """The folder of a configuration's checkpoint, that of another autoencoder, and the LoRAs; ConfigError for a
    checkpoint that can't be edited, or not in so many steps."""
    half = config.dtype in ("float16", "bfloat16") or (config.dtype == "auto" and config.device != "cpu")
    checkpoint = locate(config.model.name, config.model.revision, half)
    vae = None if config.model.vae is None else locate_vae(config.model.vae, half)
    check_kind(checkpoint)
    _check_steps(config, checkpoint)
    return checkpoint, vae, loras_of(config.model)


def _check_steps(config: Modelled, checkpoint: Path) -> None:
    """Raise ConfigError for steps that the checkpoint's spacing doesn't lead up to noise."""
    if config.inversion.steps is not None:
        scheduler = DDIMScheduler.from_config(read_json(checkpoint / "scheduler" / "scheduler_config.json"))
        Schedule.of(scheduler, config.inversion.steps)


def _pinned(config: TranslateConfig, checkpoint: Path) -> TranslateConfig:
    """With the commit at which a hub's checkpoint was found here, so that replicas load that one and no later one."""
    if checkpoint.parent.name != "snapshots":  # where the hub's client keeps commits
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"revision": checkpoint.name})})


def _absolute(config: TranslateConfig) -> TranslateConfig:
    """Replicas may stand in another folder than the driver, so local paths are made absolute."""
    given, inversion = config.input, config.inversion
    masks = None if given.masks is None else absolute_uri(given.masks)
    follow = [absolute_uri(uri) for uri in given.follow]
    given = given.model_copy(update={"uri": absolute_uri(given.uri), "masks": masks, "follow": follow})
    if inversion.cache is not None:
        inversion = replace(inversion, cache=absolute_uri(inversion.cache))
    student = config.student if config.student in (None, "mini") else absolute_uri(config.student)
    changed: dict[str, Any] = {"student": student, "input": given, "inversion": inversion}
    changed["model"] = absolute_model(config.model)
    changed["output"] = absolute_uri(config.output)
    if (signed := config.output_format.c2pa) is not None:
        files = {"certificates": absolute_uri(signed.certificates), "key": absolute_uri(signed.key)}
        signed = signed.model_copy(update=files)
        changed["output_format"] = config.output_format.model_copy(update={"c2pa": signed})
    return config.model_copy(update=changed)


def absolute_model(model: CheckpointConfig) -> CheckpointConfig:
    """A model whose local files are named from the root."""

    def folder(name: str) -> str:
        return absolute_uri(name) if Path(name).expanduser().is_dir() else name

    name = model.name if model.name == "mini" else folder(model.name)
    loras = [lora.model_copy(update={"name": absolute_uri(lora.name)}) for lora in model.loras]
    vae = None if model.vae is None else folder(model.vae)
    return model.model_copy(update={"name": name, "loras": loras, "vae": vae})


def absolute_uri(uri: str) -> str:
    """A local path from the root; a URI as it is."""
    uri = unquoted(uri)
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
