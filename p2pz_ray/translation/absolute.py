"""Makes a configuration's local paths absolute, so that they mean the same in every process."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.editing.checkpoint.files import is_here
from p2pz_ray.storage.uri import unquoted


def absolute(config: TranslateConfig) -> TranslateConfig:
    """The configuration with absolute local paths: replicas may run in another folder than the driver."""
    given, inversion = config.input, config.inversion
    masks = None if given.masks is None else absolute_uri(given.masks)
    follow = [absolute_uri(uri) for uri in given.follow]
    given = given.model_copy(update={"uri": absolute_uri(given.uri), "masks": masks, "follow": follow})
    if inversion.cache is not None:
        inversion = replace(inversion, cache=absolute_uri(inversion.cache))
    student = config.student if config.student in (None, "mini") else absolute_uri(config.student)
    safety = config.safety
    if safety is not None and is_here(safety.model.name):
        named = safety.model.model_copy(update={"name": absolute_uri(safety.model.name)})
        safety = safety.model_copy(update={"model": named})
    changed: dict[str, Any] = {"student": student, "safety": safety, "input": given, "inversion": inversion}
    changed["model"] = absolute_model(config.model)
    changed["conditions"] = [
        each if each.model == "mini" else each.model_copy(update={"model": absolute_uri(each.model)})
        for each in config.conditions
    ]
    changed["output"] = absolute_uri(config.output)
    if (signed := config.output_format.c2pa) is not None:
        files = {"certificates": absolute_uri(signed.certificates), "key": absolute_uri(signed.key)}
        signed = signed.model_copy(update=files)
        changed["output_format"] = config.output_format.model_copy(update={"c2pa": signed})
    return config.model_copy(update=changed)


def absolute_model(model: CheckpointConfig) -> CheckpointConfig:
    """The model's configuration with absolute local paths."""

    def folder(name: str) -> str:
        return absolute_uri(name) if Path(name).expanduser().exists() else name

    name = model.name if model.name == "mini" else folder(model.name)
    loras = [lora.model_copy(update={"name": absolute_uri(lora.name)}) for lora in model.loras]
    vae = None if model.vae is None else folder(model.vae)
    layout = None if model.layout in (None, "mini") else folder(model.layout)
    return model.model_copy(update={"name": name, "loras": loras, "vae": vae, "layout": layout or model.layout})


def absolute_uri(uri: str) -> str:
    """A local path made absolute; a URI unchanged."""
    uri = unquoted(uri)
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
