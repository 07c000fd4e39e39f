"""Chooses, among the weight files of a checkpoint's part, those that it is loaded from.

A part is a folder of a checkpoint ("unet"). A variant is the marker in its files' names before the extension: "fp16" or
"bf16", or none for full precision.
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
    """The variant to load: for `half` precision a half-precision one, otherwise the full-precision one; whichever
    exists if that one doesn't.

    names: the part's files; where: the part's name for errors. Raises ConfigError if there are no safetensors.
    """
    matches = [match for name in names if (match := NAME.fullmatch(name)) is not None]
    variants = {match["variant"] for match in matches if match["kind"] == "safetensors"}
    order: Sequence[str | None] = (*HALVES, None) if half else (None, *HALVES)
    for candidate in order:
        if candidate in variants:
            return candidate
    if any(match["kind"] == "bin" for match in matches):
        raise ConfigError(
            f"{where} holds its weights as .bin, which can run code when it is loaded: convert it once with diffusers' "
            "from_pretrained(…, use_safetensors=False).save_pretrained(FOLDER), and give that folder"
        )
    raise ConfigError(f"{where} has no weights (no .safetensors): fetch the model again")


def variant_in(folder: Path, half: bool) -> str | None:
    """The variant to load from a part's folder."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return variant(names, half, str(folder))


def wanted(files: Sequence[str], half: bool, where: str, parts: Sequence[str] | None = PARTS) -> list[str]:
    """The files of a repository to fetch: its configurations, and one variant of the weights of each of `parts` (None:
    all but a safety checker).

    The text encoders are always loaded in float32, so their full-precision weights are preferred. Raises ConfigError if
    a part that an edit needs has no usable weights, whether or not it is among `parts`.
    """
    weights: dict[str, list[str]] = {}
    for file in files:
        part, _, name = file.rpartition("/")
        if NAME.fullmatch(name):
            weights.setdefault(part, []).append(name)
    chosen = [f for f in files if f.count("/") < 2 and f.endswith(CONFIGURATION) and not f.startswith("safety_")]
    fetched = [part for part in weights if part and part != "safety_checker"] if parts is None else parts
    for part in dict.fromkeys((*PARTS, *fetched)):
        names = weights.get(part, [])
        if not names:
            continue
        taken = variant(names, half and part not in TEXT, f"{where}/{part}")
        if part in fetched:
            chosen += [
                f"{part}/{name}".removeprefix("/")
                for name in names
                if (match := NAME.fullmatch(name)) and (match["kind"], match["variant"]) == ("safetensors", taken)
            ]
    return chosen
