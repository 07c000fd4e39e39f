"""The checks before a service starts Ray."""

import os

from p2pz_ray.config.serve import ServeConfig
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.editing.checkpoint.weights import TEXT
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.engines.checked import checked_checkpoint, picture_size
from p2pz_ray.errors import ConfigError
from p2pz_ray.serving.offer import Offer, StudentEdit, token_hash
from p2pz_ray.serving.students import load_students
from p2pz_ray.student import Student
from p2pz_ray.translation.absolute import absolute_model, absolute_uri


def prepare(config: ServeConfig) -> Offer:
    """Check everything that can be checked without loading the model. Raises ConfigError naming what is wrong."""
    config = _absolute(config)
    checkpoint, _, loras = checked_checkpoint(config)
    size = picture_size(config.image.size, checkpoint)
    files = {name: edit.direction for name, edit in config.offered.items() if edit.direction is not None}
    if files:
        text = TextEncoder.load(
            locate(config.model.name, config.model.revision, parts=TEXT, layout=config.model.layout), loras
        )
        for name, file in files.items():
            EditDirection.load(file).check(text, name)
    return Offer(config, size, _student_edits(load_students(config.student_uris, "cpu")), _token(config))


def _student_edits(students: dict[str, Student]) -> dict[str, StudentEdit]:
    numbers = {student: number for number, student in enumerate(dict.fromkeys(students.values()))}
    edits = {}
    for edit, student in students.items():
        strongest = student.repertoire.skills[edit].strongest if student.repertoire.width else None
        edits[edit] = StudentEdit(numbers[student], student.size, strongest)
    return edits


def _token(config: ServeConfig) -> str | None:
    if config.token_env is None:
        return None
    token = os.environ.get(config.token_env, "").strip()
    if not token:
        raise ConfigError(
            f"token_env names the environment variable {config.token_env}, which is empty: put the token into it."
        )
    return token_hash(token)


def _absolute(config: ServeConfig) -> ServeConfig:
    """Make local paths absolute: replicas run in another folder than the driver."""
    edits = {}
    for name, edit in config.edits.items():
        direction, files = edit.direction, edit.sentences.files
        if direction is not None:
            edit = edit.model_copy(update={"direction": absolute_uri(direction)})
        if files is not None:
            files = files.model_copy(
                update={"source": absolute_uri(files.source), "target": absolute_uri(files.target)}
            )
            edit = edit.model_copy(update={"sentences": edit.sentences.model_copy(update={"files": files})})
        edits[name] = edit
    students = [uri if uri == "mini" else absolute_uri(uri) for uri in config.student_uris]
    return config.model_copy(update={"model": absolute_model(config.model), "edits": edits, "students": students})
