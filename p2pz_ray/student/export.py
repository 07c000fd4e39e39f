"""A student for other runtimes: ONNX, or a program of torch.export. Either takes any number of pictures, and is kept
only if its answers equal the student's.

Both map `images` (B, 3, size, size), float32 in -1 … 1, to `edited`, the same, clipped. A student of several edits has
a second input, `direction` (B, D) float32: for each picture the sum of its edits' directions times their strengths. The
directions are in the student's config.json.
"""

import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.storage.store import Store
from p2pz_ray.student.onnx import OnnxGenerator
from p2pz_ray.student.student import ONNX_FILE, Student

TOLERANCE = 1e-4
"""The largest difference from the student, of values -1 … 1."""
FILES = {"onnx": ONNX_FILE, "torch": "model.pt2"}


class _Clamped(nn.Module):
    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor, direction: Tensor | None = None) -> Tensor:
        edited: Tensor = self.generator(images, direction)
        return edited.clamp(-1, 1)


def export_student(store: Store, folder: str, kind: Literal["onnx", "torch"]) -> str:
    """Export the student in `folder` and put the file next to it; returns its full name.

    Raises ConfigError if a package is missing, P2PZError if the export's answers differ from the student's.
    """
    student = Student.from_pretrained(store.name(folder), "cpu") if store.local else _fetch(store, folder)
    data = to_onnx(student) if kind == "onnx" else to_program(student)
    store.write(f"{folder}/{FILES[kind]}", data)
    return store.name(f"{folder}/{FILES[kind]}")


def to_onnx(student: Student) -> bytes:
    """The student as an ONNX model, checked with onnxruntime."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"An export to ONNX needs {', '.join(missing)}: pip install 'p2pz_ray[export]'.")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        file = str(Path(scratch) / "model.onnx")
        torch.onnx.export(
            _Clamped(student.generator),
            _example(student, 2),
            file,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=list(_shapes(student)),
            output_names=["edited"],
            dynamic_shapes=_shapes(student),
        )
        data = Path(file).read_bytes()
    _check(student, "ONNX", OnnxGenerator(data, student.size))
    return data


def to_program(student: Student) -> bytes:
    """The student as a torch.export program, for torch.export.load."""
    program = torch.export.export(_Clamped(student.generator), _example(student, 2), dynamic_shapes=_shapes(student))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    _check(student, "torch.export", torch.export.load(io.BytesIO(buffer.getvalue())).module())
    return buffer.getvalue()


def _check(student: Student, name: str, exported: Callable[..., Any]) -> None:
    """Raise P2PZError unless its answers equal the student's, for one picture and for three."""
    expected = _Clamped(student.generator)
    for count in (1, 3):
        inputs = _example(student, count)
        with torch.no_grad():
            difference = float((exported(*inputs) - expected(*inputs)).abs().max())
        if not difference <= TOLERANCE:
            raise P2PZError(
                f"The {name} export differs from the student by {difference:.2g} (allowed: {TOLERANCE:.0e}) on "
                f"{count} pictures, so it was not kept."
            )


def _shapes(student: Student) -> dict[str, Any]:
    """The inputs' dynamic shapes: any number of rows."""
    batch = {0: torch.export.Dim("batch")}
    return {"images": batch, "direction": batch} if student.repertoire.width else {"images": batch}


def _example(student: Student, count: int) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(count)
    x = torch.rand(count, 3, student.size, student.size, generator=rng) * 2 - 1
    width = student.repertoire.width
    return (x, torch.rand(count, width, generator=rng) / width) if width else (x,)


def _fetch(store: Store, folder: str) -> Student:
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("config.json", "model.safetensors"):
            (Path(scratch) / name).write_bytes(store.read(f"{folder}/{name}"))
        return Student.from_pretrained(scratch, "cpu")
