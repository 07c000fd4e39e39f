"""Loads the students of a service, each for the edits that it makes."""

from pathlib import Path

from p2pz_ray.errors import ConfigError
from p2pz_ray.student import Student


def load_students(uris: list[str], device: str) -> dict[str, Student]:
    """Edit → the student that makes it. Raises ConfigError for a URI that isn't a student, or two with one edit."""
    students: dict[str, Student] = {}
    for uri in uris:
        student = Student.from_pretrained(uri, device)
        for edit in student.repertoire.skills or [Path(uri.rstrip("/").removesuffix("/student")).name]:
            if edit in students:
                raise ConfigError(f"students names two students that make {edit}: keep one of them.")
            students[edit] = student
    return students
