"""The student: a network that edits in one pass where the editor takes a hundred. Plain PyTorch; distill/ trains it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pz_ray.student.student import Student

__all__ = ["Student"]


def __getattr__(name: str) -> object:
    # Loaded on first use: the networks alone need PyTorch and nothing else.
    if name == "Student":
        from p2pz_ray.student.student import Student

        return Student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
