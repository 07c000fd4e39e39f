"""The speed, memory and accuracy of the student's generator."""

from types import SimpleNamespace
from typing import Any

import torch

from gpu.agreement import relative_error
from gpu.machine import DTYPES, Machine, precision

STUDENT = {
    "architecture": "comod",
    "base": 32768,
    "max": 512,
    "residual": False,
    "code": 1024,
    "dropout": 0.5,
    "style": 0,
    "style_layers": 2,
    "z": 0,
    "mapping_layers": 8,
    "noise": False,
    "blocks": 8,
}
"""The student's own defaults."""


def student(machine: Machine, size: int, name: str, B: int, tiny: bool) -> list[dict[str, Any]]:
    """A forward pass of the generator, in one precision."""
    from p2pz_ray.student.generator import CoModGenerator

    settings = SimpleNamespace(**(STUDENT | ({"base": 128, "max": 16, "code": 16} if tiny else {})))
    with torch.device(machine.name):
        torch.manual_seed(0)
        generator = CoModGenerator(settings, size).eval().requires_grad_(False)  # type: ignore[arg-type]
        x = torch.rand(B, 3, size, size) * 2 - 1
    with torch.inference_mode(), precision(name):
        expected = generator(x)
        generator, x = generator.to(DTYPES[name]), x.to(DTYPES[name])
        with machine.watched(generator) as memory:
            output = generator(x)
            seconds = min(machine.timed(lambda: generator(x))[0] for _ in range(3))
    row = {"size": size, "weights": name, "batch": B, "seconds": seconds, "images per second": B / seconds, **memory}
    return [{**row, "relative error": relative_error(output, expected)}]
