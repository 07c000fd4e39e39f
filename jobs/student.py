"""How fast students are beside their teacher, the editor, and beside diffusers' own pipeline, in one run.

    OMP_NUM_THREADS=1 python jobs/student.py STUDENT … [--edit cat2dog] [--images 16] [--steps 50] [--diffusers 1]

Seconds are of a picture, loading left out, from PNG to PNG; of a student also of its network alone. A student is timed
one picture at a time and at the batch that suits it best, by PyTorch, and by onnxruntime where it was exported
(`export=[onnx]`). On a CPU they are the process's own, which a busy machine changes little. How right students are
`python -m p2pz_ray.lab student` says.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import by_diffusers, machine, seconds
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray import Editor, Student
from p2pz_ray.editing import InversionSettings
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.errors import ConfigError
from p2pz_ray.lab.bench import Task
from p2pz_ray.lab.rivals import diffusers_pipeline
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.picture.codec import encode
from p2pz_ray.student.student import to_tensor

Pixels = NDArray[np.uint8]
BATCHES = (1, 4, 16, 64)
ROUNDS, LONG_ENOUGH = 5, 2.0  # calls, and seconds
HEAD = ["engine", "parameters", "batch", "seconds, PNG to PNG", "× diffusers", "× the editor", "seconds, network alone"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", metavar="STUDENT", help="folders that p2pz distill wrote, or mini")
    parser.add_argument("--edit", default="cat2dog")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1_000_003, help="of the scenes")
    parser.add_argument("--model", default="mini", help="the teacher")
    parser.add_argument("--teacher-steps", type=int, help="by default the checkpoint's own")
    parser.add_argument("--diffusers", type=int, default=1, help="pictures that diffusers' pipeline edits")
    parser.add_argument("--steps", type=int, default=50, help="of diffusers' pipeline")
    return compare(parser.parse_args(arguments))


def compare(given: argparse.Namespace) -> int:
    task = Task(given.edit, given.images, given.seed)
    encoded = [encode(picture) for picture in task.sources]
    editor = Editor.from_pretrained(given.model, device="cuda" if torch.cuda.is_available() else "cpu")
    editor.inversion = InversionSettings(steps=given.teacher_steps).resolve(editor.model)
    direction = editor.direction(*(template_bank(word, 1000) for word in WorldEdit.parse(given.edit).words))
    pipeline = diffusers_pipeline(locate(given.model), editor.model.device)

    def theirs() -> None:
        few = slice(0, given.diffusers)
        arguments: Any = (editor, decoded(encoded[few]), task.captions[few], direction, given.steps)
        written(by_diffusers(pipeline, *arguments))

    def ours() -> None:
        for start in range(0, len(encoded), 8):
            some = slice(start, start + 8)
            pixels = decoded(encoded[some])
            inversion = editor.invert(pixels, task.captions[some], range(start, start + len(pixels)))
            written(editor.edit(inversion, [direction])[:, 0])

    reference, teacher = seconds(theirs) / given.diffusers, seconds(ours) / len(encoded)
    print(f"{machine()}; torch {torch.__version__}; {given.edit}, teacher {given.model}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")

    def line(name: str, parameters: int | None, batch: int, spent: float, network: float | None) -> None:
        cells = [name, "–" if parameters is None else f"{parameters:,}", str(batch), f"{spent:.5f}"]
        cells += [f"{than / spent:,.1f}" for than in (reference, teacher)]
        print(f"| {' | '.join([*cells, '–' if network is None else f'{network:.5f}'])} |", flush=True)

    line(f"diffusers, {given.steps} steps", None, 1, reference, None)
    line(f"the editor, {editor.inversion.steps} steps", None, min(8, len(encoded)), teacher, None)
    for uri in given.students:
        for name, parameters, student in engines(uri):
            # Of a student that knows several edits the first one is timed where it doesn't know the one asked for.
            skills = student.repertoire.skills
            edit = given.edit if given.edit in skills else next(iter(skills), None)
            whole = {b: timed(lambda s=student, e=edit, b=b: through(s, e, encoded, b), b) for b in BATCHES}
            alone = {b: timed(network(student, edit, task.sources, b), b) for b in BATCHES}
            best = min(whole, key=whole.__getitem__)
            for batch in dict.fromkeys((1, best)):
                line(name, parameters, batch, whole[batch], alone[batch])
    return 0


def engines(uri: str) -> list[tuple[str, int, Student]]:
    """A student under each runtime that it was made for: what it is called, its parameters, itself."""
    student = Student.from_pretrained(uri)
    parameters = sum(p.numel() for p in student.generator.parameters())
    name = "/".join(Path(uri).parts[-2:])
    found = [(name, parameters, student)]
    try:
        found.append((f"{name} by onnxruntime", parameters, Student.from_pretrained(uri, runtime="onnx")))
    except ConfigError as error:
        print(f"{name} by onnxruntime is left out: {error}\n")
    return found


def through(student: Student, edit: str | None, encoded: Sequence[bytes], batch: int) -> None:
    """A batch of pictures from PNG to PNG."""
    written(student(decoded((list(encoded) * batch)[:batch]), batch_size=batch, edit=edit))


def network(student: Student, edit: str | None, images: Pixels, batch: int) -> Callable[[], object]:
    """The forward pass of a batch, and nothing else."""
    x = to_tensor(np.resize(images, (batch, *images.shape[1:]))).to(student.device)
    known, direction = student.repertoire, None
    if known.width:
        direction = torch.tensor([known.direction(known.parts(edit))] * batch).to(student.device)

    def work() -> None:
        with torch.inference_mode():
            student.generator(x, direction)

    return work


def timed(work: Callable[[], object], batch: int) -> float:
    """Seconds a picture: the median of at least five rounds and two seconds, after a first one."""
    work()
    spent = [seconds(work) for _ in range(ROUNDS)]
    while sum(spent) < LONG_ENOUGH:
        spent.append(seconds(work))
    return float(np.median(spent)) / batch


def decoded(encoded: Sequence[bytes]) -> Pixels:
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])


def written(pictures: Pixels) -> None:
    for pixels in pictures:
        encode(pixels)


if __name__ == "__main__":
    raise SystemExit(main())
