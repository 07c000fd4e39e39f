"""The student: a network that does in one pass what the editor does in a hundred. Plain PyTorch; distill/ trains it."""

from p2pz_ray.student.student import Student

__all__ = ["Student"]
