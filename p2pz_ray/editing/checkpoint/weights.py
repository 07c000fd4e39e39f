"""Which of the weight files that lie beside one another a part of a checkpoint is loaded from.

A part is a folder of a checkpoint ("unet"), and a variant is what stands in its files' names before the ending: "fp16",
or nothing where they are whole.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from p2pz_ray.errors import ConfigError

NAME = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>\w+))?(-\d{5}-of-\d{5})?"
    r"\.(?P<kind>safetensors|bin)"
)
HALVES = ("fp16", "bf16")
TEXT = ("text_encoder", "text_encoder_2")
CONFIGURATION = (".json", ".txt", ".model", ".jinja")
PARTS = ("unet", "vae", *TEXT)
"""The parts whose weights an edit needs."""


def variant(names: Iterable[str], half: bool, where: str) -> str | None:
    """The variant to load: a half one for `half` precision where there is one, else the whole one, else what there is.

    names: of the files in the part, `where` in an error. Raises ConfigError where no safetensors are among them.
    """
    found = [match for name in names if (match := NAME.fullmatch(name)) is not None]
    known = {match["variant"] for match in found if match["kind"] == "safetensors"}
    order: Sequence[str | None] = (*HALVES, None) if half else (None, *HALVES)
    for each in order:
        if each in known:
            return each
    if any(match["kind"] == "bin" for match in found):
        raise ConfigError(
            f"{where} holds its weights as .bin, which is a program and not only numbers: convert it once with "
            "diffusers' from_pretrained(…, use_safetensors=False).save_pretrained(FOLDER), and give that folder"
        )
    raise ConfigError(f"{where} has no weights (no .safetensors): fetch the model again")


def variant_in(folder: Path, half: bool) -> str | None:
    """The variant to load of a part's folder."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return variant(names, half, str(folder))


def wanted(files: Sequence[str], half: bool, where: str, parts: Sequence[str] | None = PARTS) -> list[str]:
    """Of a repository's files its configurations, and of each of `parts`, None for all but a safety checker, one
    variant's weights.

    The text encoders are always loaded in float32, so they are taken whole where that is there. Raises ConfigError
    where a part that an edit needs has no weights that it can use, whether they are wanted here or not.
    """
    there: dict[str, list[str]] = {}
    for file in files:
        part, _, name = file.rpartition("/")
        if NAME.fullmatch(name):
            there.setdefault(part, []).append(name)
    chosen = [f for f in files if f.count("/") < 2 and f.endswith(CONFIGURATION) and not f.startswith("safety_")]
    taken_of = [part for part in there if part and part != "safety_checker"] if parts is None else parts
    for part in dict.fromkeys((*PARTS, *taken_of)):
        names = there.get(part, [])
        if not names:
            continue
        taken = variant(names, half and part not in TEXT, f"{where}/{part}")
        if part in taken_of:
            chosen += [
                f"{part}/{name}".removeprefix("/")
                for name in names
                if (match := NAME.fullmatch(name)) and (match["kind"], match["variant"]) == ("safetensors", taken)
            ]
    return chosen
