"""From pairs to a student: a GAN that does in one pass what the editor does in a hundred."""

from p2pz_ray.distill.student import Student

__all__ = ["Student"]
