"""Edit directions for a run and on their own: from two words by way of sentences, or from a file.

A run's are made in two halves: a `Recipe` where the configuration's files and keys are, directions of it where the
model is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pz_ray.commit.folder import INGREDIENTS, RunFolder
from p2pz_ray.config import DirectionConfig
from p2pz_ray.config.edits import EditConfig
from p2pz_ray.config.model import CheckpointConfig
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.editing.checkpoint.lora import Lora
from p2pz_ray.editing.checkpoint.weights import TEXT
from p2pz_ray.editing.model import TextEncoder, chosen_device
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import sentences


def write_direction(config: DirectionConfig) -> EditDirection:
    """Make a direction and save it; for words only the text half of the model is loaded, for embeddings nothing.

    Raises ConfigError where the model or the sentences can't be had, P2PZError where making sentences fails.
    """
    if config.embeddings is not None:
        direction = EditDirection.from_embeddings(config.embeddings.source, config.embeddings.target)
        direction.save(config.output)
        return direction
    device = chosen_device(config.device)
    text = TextEncoder.load(
        locate(config.model.name, config.model.revision, parts=TEXT, layout=config.model.layout), loras_of(config.model)
    )
    text.encoder.to(device)
    name = Path(config.output).stem
    words = EditConfig(source=config.source, target=config.target, sentences=config.sentences, count=config.count)
    direction = edit_direction(words, text, name, device)
    direction.save(config.output)
    return direction


def loras_of(model: CheckpointConfig) -> list[Lora]:
    """The LoRAs that a configuration names."""
    return [Lora(Path(lora.name).expanduser(), lora.scale) for lora in model.loras]


@dataclass(frozen=True)
class Recipe:
    """What the directions of edits are made of: small enough to be sent.

    same: name of an edit → name of the first that has the same direction, for all that compose nothing. held: such a
    first name → its direction, where there is one; unchecked: those of them that came from a file. sentences: first
    name → those of its source and its target, where no language model of this machine is to write them.
    """

    edits: dict[str, EditConfig]
    same: dict[str, str]
    held: dict[str, EditDirection]
    unchecked: frozenset[str]
    sentences: dict[str, tuple[list[str], list[str]]]

    @property
    def complete(self) -> bool:
        """Whether no text encoder is needed any more."""
        return not self.unchecked and self.held.keys() == set(self.same.values())


def recipe(edits: Mapping[str, EditConfig], kept: Mapping[str, EditDirection]) -> Recipe:
    """Read files and gather sentences. A direction of words is made once for a run and all its strengths, since
    sentences that a language model writes differ each time: those `kept` stay.

    Raises ConfigError for a file or an endpoint that can't be used, P2PZError for an endpoint that fails.
    """
    first: dict[str, str] = {}
    same = {
        name: first.setdefault(edit.model_dump_json(exclude={"strength"}), name)
        for name, edit in edits.items()
        if edit.compose is None
    }
    held, unchecked, written = {}, set(), {}
    for name in first.values():
        edit = edits[name]
        stays = [kept[other] for other in same if same[other] == name and other in kept]
        if edit.direction is not None:
            held[name] = EditDirection.load(edit.direction)
            unchecked.add(name)
        elif stays:
            held[name] = stays[0]
        elif edit.sentences.text_model is None:
            written[name] = _both_sides(edit, "cpu")
    return Recipe(dict(edits), same, held, frozenset(unchecked), written)


def edit_directions(made_of: Recipe, text: TextEncoder | None, device: str = "cpu") -> dict[str, EditDirection]:
    """The directions of all edits; a recipe that is complete needs no text encoder. A text model that is to write
    sentences does so on `device`. Raises ConfigError where a file's direction doesn't fit the encoder."""
    first = dict(made_of.held)
    for name in dict.fromkeys(made_of.same.values()):
        edit = made_of.edits[name]
        if name not in first:
            assert text is not None
            source, target = made_of.sentences.get(name) or _both_sides(edit, device)
            first[name] = EditDirection.from_sentences(
                text, source, target, name=name, source=edit.source, target=edit.target
            )
        elif name in made_of.unchecked:
            assert text is not None
            first[name].check(text, name)
    made = {name: first[other] for name, other in made_of.same.items()}
    for name, edit in made_of.edits.items():
        if edit.compose is not None:
            one, *others = (made[part] * made_of.edits[part].strength for part in edit.compose)
            made[name] = sum(others, one)
    return {name: made[name] for name in made_of.edits}


def edit_direction(edit: EditConfig, text: TextEncoder, name: str, device: str = "cpu") -> EditDirection:
    """The direction of one edit called `name`, which composes none. Raises as `recipe` and `edit_directions` do."""
    return edit_directions(recipe({name: edit}, {}), text, device)[name]


def save_direction(folder: RunFolder, direction: EditDirection) -> None:
    """Write a direction into a run's folder, wherever that is, under its digest."""
    folder.store.create(_path(direction.digest), direction.to_bytes())


def load_direction(folder: RunFolder, name: str) -> EditDirection | None:
    """Read the direction of an edit from a run's folder, None where there is none.

    Raises ConfigError where the file isn't the direction that the run was begun with.
    """
    digest = ((folder.read_json(INGREDIENTS) or {}).get("directions") or {}).get(name)
    if digest is None or not folder.store.exists(_path(digest)):
        return None
    file = folder.store.name(_path(digest))
    direction = EditDirection.from_bytes(folder.store.read(_path(digest)), file)
    if direction.digest != digest:
        raise ConfigError(f"{file} isn't the direction of {name} that the run was begun with: restore it.")
    return direction


def _both_sides(edit: EditConfig, device: str) -> tuple[list[str], list[str]]:
    """Sentences of the source and of the target."""
    assert edit.source  # EditConfig has words where it has no direction
    assert edit.target
    bank = edit.sentences
    return (
        sentences(bank.source("source", device), edit.source, edit.count),
        sentences(bank.source("target", device), edit.target, edit.count),
    )


def _path(digest: str) -> str:
    return f"directions/{digest}.safetensors"
