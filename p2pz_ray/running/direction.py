"""Edit directions for a run and on their own: from two words by way of sentences, or from a file."""

from pathlib import Path

from p2pz_ray.collection.manifest import INGREDIENTS, RunFolder
from p2pz_ray.config import CheckpointConfig, DirectionConfig, EditConfig, SentencesConfig
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint import locate
from p2pz_ray.editing.lora import Lora
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
    text = TextEncoder.load(locate(config.model.name, config.model.revision), loras_of(config.model))
    text.encoder.to(device)
    assert config.source  # DirectionConfig has words where it has no embeddings
    assert config.target
    name = Path(config.output).stem
    direction = _from_words(text, config.source, config.target, config.sentences, config.count, name, device)
    direction.save(config.output)
    return direction


def loras_of(model: CheckpointConfig) -> list[Lora]:
    """The LoRAs that a configuration names."""
    return [Lora(Path(lora.name).expanduser(), lora.scale) for lora in model.loras]


def edit_directions(
    edits: dict[str, EditConfig], text: TextEncoder, kept: dict[str, EditDirection]
) -> dict[str, EditDirection]:
    """A run's directions. One made of words is made once for a run and all its strengths, since sentences that a
    language model writes differ each time: those `kept` stay. Raises ConfigError where one doesn't fit the encoder.
    """
    made: dict[str, EditDirection] = {}
    shared: dict[str, EditDirection] = {}
    for name, edit in edits.items():
        if edit.compose is None:
            key = edit.model_dump_json(exclude={"strength"})
            if edit.direction is None and name in kept:
                shared.setdefault(key, kept[name])
            if key not in shared:
                shared[key] = edit_direction(edit, text, name)
            made[name] = shared[key]
    for name, edit in edits.items():
        if edit.compose is not None:
            first, *others = (made[part] * edits[part].strength for part in edit.compose)
            made[name] = sum(others, first)
    return {name: made[name] for name in edits}


def edit_direction(edit: EditConfig, text: TextEncoder, name: str) -> EditDirection:
    """The direction of one edit called `name`. Raises ConfigError where it doesn't fit the text encoder."""
    if edit.direction is not None:
        direction = EditDirection.load(edit.direction)
    else:
        assert edit.source  # EditConfig has words where it has no direction
        assert edit.target
        direction = _from_words(text, edit.source, edit.target, edit.sentences, edit.count, name, "cpu")
    direction.check(text, name)
    return direction


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


def _from_words(
    text: TextEncoder, source: str, target: str, bank: SentencesConfig, count: int, name: str, device: str
) -> EditDirection:
    return EditDirection.from_sentences(
        text,
        sentences(bank.source("source", device), source, count),
        sentences(bank.source("target", device), target, count),
        name=name,
        source=source,
        target=target,
    )


def _path(digest: str) -> str:
    return f"directions/{digest}.safetensors"
