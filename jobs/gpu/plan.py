"""What is measured, in which order, and how long each measurement takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gpu.agreement import agreement, isolation, text_precision
from gpu.layouts import Family
from gpu.machine import Machine
from gpu.parts import compiled, passes
from gpu.speed import diffusers_speed, speed
from gpu.student import student
from gpu.weights import Weights


class NotBuiltError(Exception):
    """A measurement needs weights that there was no time for."""


@dataclass(frozen=True)
class Measurement:
    """A measurement, the report's section that it belongs to, and about how many seconds it needs on a recent GPU."""

    section: str
    name: str
    needs: float
    work: Callable[[], list[dict[str, Any]]]


def measurements(machine: Machine, families: dict[str, Family], tiny: bool) -> Iterator[Measurement]:
    """All measurements in order. Weights and editors that several share are made once and freed after the last."""
    shared: dict[str, Any] = {}

    def build(family: str) -> list[dict[str, Any]]:
        shared.clear()
        machine.free()
        seconds, weights = machine.timed(lambda: Weights(families[family], machine))
        shared.update(weights=weights, family=family, compared={})
        return [{"family": family, "pixels": families[family].pixels, "seconds": seconds}]

    def weights(family: str) -> Weights:
        if shared.get("family") != family:
            raise NotBuiltError
        return shared["weights"]

    def editor(family: str, name: str) -> Any:
        """The editor in one precision; the previous one is freed."""
        if weights(family) and shared.get("precision") != name:
            shared.pop("editor", None)
            machine.free()
            shared.update(editor=weights(family).editor(name), precision=name)
        return shared["editor"]

    def agree(family: str, name: str, steps: int) -> list[dict[str, Any]]:
        if name != "float32" and weights(family) and not shared["compared"]:
            raise NotBuiltError
        return agreement(weights(family), shared["compared"], name, 2 if tiny else steps, count=2)

    def fast(family: str, name: str, B: int, K: int = 1) -> list[dict[str, Any]]:
        label = {"editor": "ours", "weights": name}
        try:
            return speed(weights(family), editor(family, name), label, B, K)
        except torch.OutOfMemoryError:
            return [{**label, "batch": B, "K": K, "error": "out of memory"}]

    def measure(section: str, name: str, needs: float, work: Any, *arguments: Any) -> Measurement:
        return Measurement(section, name, needs, lambda: work(*arguments))

    def speeds(family: str, name: str, sizes: tuple[tuple[int, int, float], ...]) -> Iterator[Measurement]:
        """For `sizes`: (batch, number of directions, seconds needed)."""
        for B, K, needs in ((1, 1, 0), (1, 2, 0)) if tiny else sizes:
            yield measure(f"speed, {family}", f"{name}, {B} × {K}", needs, fast, family, name, B, K)

    one = "SD 1.5"
    yield measure("built", one, 0, build, one)
    for name in ("float32", "float16", "bfloat16", "tf32") if machine.gpu else ("float32", "float16", "bfloat16"):
        yield measure(f"agreement, {one}", name, 5, agree, one, name, 4)
    yield measure("text half", one, 2, lambda: text_precision(weights(one)))
    for name in ("float16", "bfloat16", "float32"):
        yield measure(f"isolation, {one}", name, 5, lambda name=name: isolation(weights(one), name, 2))
    yield from speeds(one, "float16", ((1, 1, 4),))
    yield measure(f"speed, {one}", "diffusers", 15, lambda: diffusers_speed(weights(one), "float16"))
    if not tiny:
        yield from speeds(one, "float16", ((4, 1, 3), (8, 1, 4), (16, 1, 5), (32, 1, 9), (64, 1, 16), (4, 4, 5)))
        yield from speeds(one, "bfloat16", ((8, 1, 4), (32, 1, 9)))
        yield from speeds(one, "float32", ((4, 1, 9),))
        yield from speeds(one, "tf32", ((4, 1, 6),))
    for B in (1, 8):
        yield measure(f"parts of a step, {one}", f"float16, {B}", 3, lambda B=B: passes(
            weights(one), editor(one, "float16"), "float16", B))  # fmt: skip
    yield measure("built", "SDXL", 6, build, "SDXL")
    yield from speeds("SDXL", "float16", ((1, 1, 8), (1, 4, 12), (4, 1, 12)))
    yield measure("built", "SD 2.1", 5, build, "SD 2.1")
    yield from speeds("SD 2.1", "float16", ((1, 1, 4), (4, 1, 6), (16, 1, 14)))
    yield measure("compile", "small part", 20, lambda: compiled(weights("SD 2.1"), "float16", 1, whole=False))
    for name in ("float32", "float16", "bfloat16"):
        yield measure("agreement, SD 2.1", name, 8, agree, "SD 2.1", name, 4)
    shared.clear()
    machine.free()
    for size in (32,) if tiny else (256, 512):
        for name in ("float32", "bfloat16"):
            for B in (1, 32):
                yield measure("student", f"{size}, {name}, {B}", 2, student, machine, size, name, B, tiny)
    yield measure("built", "SDXL", 20, build, "SDXL")
    for name in ("float32", "float16", "bfloat16"):
        yield measure("agreement, SDXL", name, 10, agree, "SDXL", name, 2)
    yield measure("built", one, 160, build, one)
    yield measure("compile", "UNet", 155, lambda: compiled(weights(one), "float16", 8, whole=True))
