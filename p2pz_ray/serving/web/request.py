"""Parses requests in the two forms of the API, and makes the engines' tasks from them."""

import base64
import binascii
import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.editing.mask import from_picture
from p2pz_ray.engines.seed import image_seed
from p2pz_ray.errors import ImageError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.serving.offer import Offer, StudentEdit
from p2pz_ray.serving.task import Edit, Kind, Part, Pixels, Task
from p2pz_ray.serving.web.body import EditBody, EditRequest, PartBody
from p2pz_ray.serving.web.prompt import caption_for, read
from p2pz_ray.serving.web.refusal import RefusalError

LARGEST = 2048
"""The longest side, in pixels, that answers are scaled to."""
STUDENT = "student"
"""The name for clients of all students together."""


@dataclass(frozen=True)
class ParsedRequest:
    """A request, parsed and checked. names: the edits' names for the client. model: the name of the model to use."""

    tasks: list[Task]
    names: list[str]
    strengths: list[list[float]]
    model: str
    seeds: list[int]
    format: Literal["png", "jpeg", "webp"] = "png"
    size: tuple[int, int] | None = None  # (W, H) to scale the answers to
    source: bool = False

    @property
    def by_student(self) -> bool:
        return self.model == STUDENT


def parse_body(body: EditRequest, offer: Offer) -> ParsedRequest:
    """Parse the body of POST /v1/edits. Raises RefusalError."""
    edits = [_edit(edit, offer, f"edits.{at}") for at, edit in enumerate(body.edits)]
    model = _model(body.model, offer)
    limits = offer.config.limits
    if len(edits) > limits.pictures:
        raise RefusalError(
            422, f"edits asks for {len(edits)} pictures, but one request may ask for {limits.pictures}.", "edits"
        )
    if body.steps is not None and body.steps > limits.steps:
        raise RefusalError(422, f"steps is {body.steps}, but the most is {limits.steps}.", "steps")
    settings = {"steps": body.steps, "lambda_xa": body.lambda_xa, "cfg": body.cfg, "negative": body.negative}
    kind = Kind(tuple(edits), body.mask is not None, **settings)  # type: ignore[arg-type]
    size = _check_model(kind, model, offer)
    policy = _policy(offer, size)
    pixels = picture(from_base64(body.image, "image"), policy, "image")
    mask = None if body.mask is None else white(from_base64(body.mask, "mask"), policy)
    caption = " ".join((body.caption or "").split()) or None
    task = Task(
        kind, pixels, caption, _otherwise(edits, offer), image_seed(body.seed, body.id), mask, body.preview_every
    )
    names, strengths = _names_and_strengths(edits, offer)
    return ParsedRequest([task], names, strengths, model, [body.seed], body.format, None, body.source)


@dataclass(frozen=True)
class Form:
    """The fields of POST /v1/images/edits."""

    image: bytes
    prompt: str
    mask: bytes | None = None
    fields: dict[str, str] | None = None


def parse_form(form: Form, offer: Offer) -> ParsedRequest:
    """Parse the form of POST /v1/images/edits. Raises RefusalError."""
    fields = form.fields or {}
    choice = read(form.prompt, offer.edits, offer.config.words.allowed)
    if choice is None:
        offers = ", ".join(list(offer.edits)[:12])
        words = "Write SOURCE to TARGET, such as 'cat to dog', or one" if offer.config.words.allowed else "Write one"
        raise RefusalError(
            400, f"The prompt {form.prompt[:80]!r} names no edit. {words} of: {offers}.", "prompt", "unknown_edit"
        )
    strength = _number(fields, "strength", -10, 10)
    edits: list[Edit] = [(Part(choice, strength),)]
    model = _model(fields.get("model") or None, offer)
    n, seed = _whole(fields, "n", 1, offer.config.limits.pictures) or 1, _whole(fields, "seed", 0, 2**63 - 1) or 0
    steps = _whole(fields, "num_inference_steps", 2, offer.config.limits.steps)
    kind = Kind(
        tuple(edits), form.mask is not None, steps, None, _number(fields, "guidance_scale", 0, 100),
        fields.get("negative_prompt") or None,
    )  # fmt: skip
    policy = _policy(offer, _check_model(kind, model, offer))
    pixels = picture(form.image, policy, "image")
    mask = None if form.mask is None else transparent(form.mask, policy)
    if fields.get("response_format", "b64_json") not in ("b64_json", ""):
        raise RefusalError(
            400, "response_format must be b64_json: pictures are not stored here, so none has a URL.", "response_format"
        )
    format = fields.get("output_format") or "png"
    if format not in ("png", "jpeg", "webp"):
        raise RefusalError(400, f"output_format is {format[:40]!r}: choose png, jpeg or webp.", "output_format")
    seeds = [seed + k for k in range(n)]
    otherwise = _otherwise(edits, offer)
    tasks = [Task(kind, pixels, fields.get("caption") or None, otherwise, image_seed(s, ""), mask) for s in seeds]
    return ParsedRequest(tasks, *_names_and_strengths(edits, offer), model, seeds, format, _size(fields), False)  # type: ignore[arg-type]


def from_base64(text: str, key: str) -> bytes:
    """The bytes of base64, or of a data: URI. Nothing is ever fetched: other URIs are refused."""
    if match := re.match(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):", text[:64]):
        if match[1].lower() != "data" or ";base64," not in text[:256]:
            raise RefusalError(400, f"{key} is a URI, and this service fetches none: send the picture itself.", key)
        text = text.split(";base64,", 1)[1]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(400, f"{key} is not base64: send the picture's bytes in base64.", key) from None


def picture(data: bytes, policy: DecodePolicy, key: str) -> Pixels:
    """A client's picture, decoded safely. Raises RefusalError."""
    try:
        return decode(data, policy)
    except ImageError as error:
        message = str(error)
        status = 415 if "not an image" in message else 413 if " bytes, more" in message else 422
        raise RefusalError(status, f"The {key} can't be used: {message}", key, "invalid_image") from None


def white(data: bytes, policy: DecodePolicy) -> NDArray[np.float32]:
    """A mask from a picture that is white where the edit may go, like the masks of a collection."""
    return from_picture(picture(data, replace(policy, background=(0, 0, 0)), "mask"))


def transparent(data: bytes, policy: DecodePolicy) -> NDArray[np.float32]:
    """A mask from a picture that is transparent where the edit may go: such a pixel differs over black and white."""
    dark, bright = (picture(data, replace(policy, background=(level,) * 3), "mask").astype(int) for level in (0, 255))
    free = from_picture((bright - dark).clip(0, 255).astype(np.uint8))
    if not free.any():
        raise RefusalError(
            400, "The mask has no transparent pixel, so nothing may be edited: make it transparent there.", "mask"
        )
    return free


def _edit(edit: str | EditBody, offer: Offer, key: str) -> Edit:
    parts = [PartBody(edit=edit)] if isinstance(edit, str) else edit.parts
    known, resolved = offer.edits, []
    for part in parts:
        if part.edit is not None:
            choice = part.edit if part.edit in known else read(part.edit, known, offer.config.words.allowed)
            if choice is None:
                raise RefusalError(
                    422,
                    f"{part.edit!r} is not among the edits that are offered: GET /v1/edits lists them.",
                    key,
                    "unknown_edit",
                )
            resolved.append(Part(choice, part.strength))
            continue
        assert part.source is not None
        assert part.target is not None
        words = (" ".join(part.source.split()), " ".join(part.target.split()))
        if not offer.config.words.allowed:
            raise RefusalError(
                422, "Edits between any two words are not allowed here: GET /v1/edits lists what is.", key
            )
        resolved.append(Part(words, part.strength))
    return tuple(resolved)


def _model(name: str | None, offer: Offer) -> str:
    names = [offer.model, *([STUDENT] if offer.students else [])]
    if name is not None and name not in names:
        raise RefusalError(
            404,
            f"There is no model {name[:80]!r} here: choose {' or '.join(names)}.",
            "model",
            "model_not_found",
        )
    return name or offer.model


def _check_model(kind: Kind, model: str, offer: Offer) -> tuple[int, int]:
    """(H, W) of the pictures that the model takes. Raises RefusalError where the model doesn't make these edits."""
    if model != STUDENT:
        for part in (part for edit in kind.edits for part in edit):
            if isinstance(part.edit, str) and part.edit not in offer.config.offered:
                raise RefusalError(422, f"{offer.model} doesn't make {part.edit}: ask the student for it.", "model")
        return offer.size
    sides = {_check_student(edit, offer).side for edit in kind.edits}
    if any((kind.steps, kind.lambda_xa, kind.cfg, kind.negative)):
        raise RefusalError(422, "The student makes a picture in one pass, which has no steps or guidance.", "model")
    if len(sides) > 1:
        raise RefusalError(
            422, "The students of these edits have different sizes: ask for one edit at a time.", "edits"
        )
    [side] = sides
    return side, side


def _check_student(edit: Edit, offer: Offer) -> StudentEdit:
    """The entry of the student that makes an edit. Raises RefusalError where none makes it at this strength."""
    makes = ", ".join(offer.students)
    known = [offer.students.get(part.edit) if isinstance(part.edit, str) else None for part in edit]
    entries, names = [entry for entry in known if entry is not None], [part.edit for part in edit]
    if len(entries) < len(known):
        raise RefusalError(422, f"The student makes only {makes}: ask {offer.model} for other edits.", "model")
    for part, entry in zip(edit, entries, strict=True):
        assert isinstance(part.edit, str)
        strength = offer.strength(part.edit) if part.strength is None else part.strength
        if entry.strongest is None and (len(edit) > 1 or part.strength not in (None, 1.0)):
            raise RefusalError(
                422, f"The student makes only {part.edit} at strength 1: ask {offer.model} for the rest.", "strength"
            )
        if entry.strongest is not None and not 0 <= strength <= entry.strongest:
            raise RefusalError(
                422,
                f"The student makes {part.edit} at strengths from 0 to {entry.strongest:g}: "
                f"ask {offer.model} for more.",
                "strength",
            )
    if len({entry.student for entry in entries}) > 1 or len(set(names)) < len(names):
        raise RefusalError(
            422, f"No student makes {' + '.join(map(str, names))} at once: ask {offer.model} for that.", "model"
        )
    return entries[0]


def _policy(offer: Offer, size: tuple[int, int]) -> DecodePolicy:
    image = offer.config.image
    return DecodePolicy(size, fit=image.fit, max_bytes=image.max_bytes, max_pixels=image.max_pixels)


def _otherwise(edits: list[Edit], offer: Offer) -> str:
    """The caption of a picture that has none, the same as in a run of these edits."""
    if offer.config.captions.otherwise is not None:
        return offer.config.captions.otherwise
    for part in (part for edit in edits for part in edit):
        words = offer.edits[part.edit] if isinstance(part.edit, str) else part.edit
        if words is not None:
            return caption_for(words[0])
    return "a photo"


def _names_and_strengths(edits: list[Edit], offer: Offer) -> tuple[list[str], list[list[float]]]:
    """The edits' names and strengths, for the answer."""
    names, strengths = [], []
    for edit in edits:
        names.append(" + ".join(p.edit if isinstance(p.edit, str) else " to ".join(p.edit) for p in edit))
        defaults = [offer.strength(part.edit) if isinstance(part.edit, str) else 1.0 for part in edit]
        chosen = zip(edit, defaults, strict=True)
        strengths.append([default if part.strength is None else part.strength for part, default in chosen])
    return names, strengths


def _size(fields: dict[str, str]) -> tuple[int, int] | None:
    size = fields.get("size") or "auto"
    if size == "auto":
        return None
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", size)
    if match is None or not all(8 <= int(side) <= LARGEST for side in match.groups()):
        raise RefusalError(400, f"size is {size[:40]!r}: write WIDTHxHEIGHT of 8 to {LARGEST} pixels, or auto.", "size")
    return int(match[1]), int(match[2])


def _number(fields: dict[str, str], key: str, low: float, high: float) -> float | None:
    if not fields.get(key):
        return None
    try:
        number = float(fields[key])
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise RefusalError(400, f"{key} is {fields[key][:40]!r}: give a number from {low:g} to {high:g}.", key)
    return number


def _whole(fields: dict[str, str], key: str, low: int, high: int) -> int | None:
    if not fields.get(key):
        return None
    text = fields[key].strip()
    if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise RefusalError(400, f"{key} is {text[:40]!r}: give a whole number from {low} to {high}.", key)
    return int(text)
