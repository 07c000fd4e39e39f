"""A student beside its teacher, the editor, and beside the source left as it is: how right, and how fast, in one run.

    python jobs/student.py STUDENT [--edit cat2dog] [--images 16] [--teacher-steps N] [--diffusers 1] [--sheet FILE]

The collection is Parquet with truth columns, as `p2pz world` writes it; without one, a fresh one is drawn: give a seed
that the student's own pairs were not made with. Judged is the share of pictures in which the miniature's judge sees
what was asked for, where its weights are. Error is the mean squared distance from the exact truth, of pixel values
0 … 1; background is the same where the truth is the source; to teacher is the distance from what the editor made, and
ST-LPIPS the learned one, where it is installed. Seconds are of a picture, loading left out: of a student from PNG to
PNG at the batch named, or of its network alone; by onnxruntime too, where it was exported (`export=[onnx]`).
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from benchmark import by_diffusers, machine, seconds
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray import Editor, Student
from p2pz_ray.collection.codec import encode
from p2pz_ray.collection.store import Store
from p2pz_ray.editing.checkpoint import locate
from p2pz_ray.errors import ConfigError
from p2pz_ray.lab.rivals import diffusers_pipeline
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.judge import FOLDER, Judge
from p2pz_ray.perceptual import load_perceptual
from p2pz_ray.student.student import ONNX_FILE, to_tensor

Pixels = NDArray[np.uint8]
BATCHES = (1, 4, 16, 64)
ROUNDS, LONG_ENOUGH = 5, 2.0  # calls, and seconds
SHEET_COLUMNS = 10


class Quality:
    """Scores pictures beside the truth, the sources and what the teacher made, all (N, H, W, 3)."""

    def __init__(self, edit: WorldEdit, sources: Pixels, truths: Pixels, taught: Pixels) -> None:
        self.edit, self.truths, self.taught = edit, truths, taught
        self.outside = (sources == truths).all(axis=3)
        self.judge = Judge.load() if (FOLDER / "model.safetensors").exists() else None
        try:
            self.learned = load_perceptual("stlpips-alex")
        except ConfigError:
            self.learned = None

    def of(self, made: Pixels) -> list[str]:
        """judged, error, background, to teacher, ST-LPIPS to teacher."""
        seen = "–" if self.judge is None else f"{np.mean([self.edit.shown(s) for s in self.judge.see(made)]):.1%}"
        apart = [
            error(made, self.truths),
            error(made[self.outside], self.truths[self.outside]),
            error(made, self.taught),
        ]
        return [seen, *(f"{each:.4f}" for each in apart), self._learned(made)]

    def _learned(self, made: Pixels) -> str:
        if self.learned is None:
            return "–"
        with torch.inference_mode():  # one by one, since its feature maps are large
            pairs = zip(made[:, None], self.taught[:, None], strict=True)
            return f"{np.mean([float(self.learned(to_tensor(a), to_tensor(b))) for a, b in pairs]):.4f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--collection", help="Parquet with truth; by default drawn anew")
    parser.add_argument("--seed", type=int, default=1_000_003, help="of a collection drawn anew")
    parser.add_argument("--edit", default="cat2dog")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--model", default="mini", help="the teacher")
    parser.add_argument("--teacher-steps", type=int, help="by default the checkpoint's own")
    parser.add_argument("--diffusers", type=int, default=1, help="pictures that diffusers' pipeline edits; 0 for none")
    parser.add_argument("--steps", type=int, default=50, help="of diffusers' pipeline")
    parser.add_argument("--sheet", help="a picture: source, teacher, student and truth of the first ones, row by row")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        uri = given.collection
        if uri is None:
            from p2pz_ray.mini.dataset import write_world

            uri = write_world(scratch + "/world", given.images, given.seed, (given.edit,))
        return compare(given, uri)


def compare(given: argparse.Namespace, uri: str) -> int:
    rows = pq.read_table(uri).slice(0, given.images).to_pylist()
    encoded = [row["image"]["bytes"] for row in rows]
    images, truths = decoded(encoded), decoded([row[f"truth_{given.edit}"]["bytes"] for row in rows])
    captions, edit = [row["caption"] for row in rows], WorldEdit.parse(given.edit)
    student = Student.from_pretrained(given.student)
    editor = Editor.from_pretrained(given.model, device="cuda" if torch.cuda.is_available() else "cpu")
    editor.inversion = replace(editor.inversion, steps=given.teacher_steps).resolve(editor.model)
    direction = editor.direction(*(template_bank(word, 1000) for word in edit.words))
    kept: dict[str, Pixels] = {}

    def taught() -> None:
        parts = []
        for start in range(0, len(images), 8):
            some = slice(start, start + 8)
            inversion = editor.invert(images[some], captions[some], list(range(len(images)))[some])
            parts.append(editor.edit(inversion, [direction])[:, 0])
        kept["teacher"] = np.concatenate(parts)

    teacher = seconds(taught) / len(images)
    quality = Quality(edit, images, truths, kept["teacher"])
    reference: float | None = None
    if given.diffusers:
        few = slice(0, given.diffusers)
        pipeline = diffusers_pipeline(locate(given.model), editor.model.device)

        def theirs() -> None:
            arguments: Any = (editor, images[few], captions[few], direction, given.steps)
            kept["diffusers"] = by_diffusers(pipeline, *arguments)

        reference = seconds(theirs) / len(images[few])

    print(f"{machine()}; torch {torch.__version__}; {len(images)} pictures, {given.edit}, teacher {given.model}\n")
    print(
        "| engine | seconds a picture | × diffusers | × the editor "
        "| judged | error | background | to teacher | ST-LPIPS to teacher |"
    )
    print("|---|---|---|---|---|---|---|---|---|")

    def line(name: str, spent: float | None, made: Pixels | None) -> None:
        times = ["–"] * 3
        if spent is not None:
            times = [
                f"{spent:.5f}",
                *("–" if than is None else f"{than / spent:,.1f}" for than in (reference, teacher)),
            ]
        right = ["–"] * 5 if made is None else quality.of(made)
        print(f"| {' | '.join([name, *times, *right])} |", flush=True)

    line("the source left as it is", None, images)
    if reference is not None:
        whole = kept["diffusers"] if len(kept["diffusers"]) == len(images) else None
        line(f"diffusers, {given.steps} steps, one at a time", reference, whole)
    line(f"the editor, {editor.inversion.steps} steps: the teacher", teacher, kept["teacher"])
    made = student(images)
    engines = {"the student": student}
    if Store(given.student).exists(ONNX_FILE):
        engines["the student by onnxruntime"] = Student.from_pretrained(given.student, runtime="onnx")
    for name, engine in engines.items():
        for batch in BATCHES:
            whole = timed(lambda e=engine, b=batch: through(e, encoded, b), batch)
            line(f"{name}, batch {batch}", whole, engine(images))
            line(f"{name}, batch {batch}, network alone", timed(network(engine, images, batch), batch), None)
    if given.sheet:
        first = [each[:SHEET_COLUMNS] for each in (images, kept["teacher"], made, truths)]
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in first])
        Path(given.sheet).write_bytes(encode(sheet))
    return 0


def through(student: Student, encoded: list[bytes], batch: int) -> None:
    """A batch of pictures from PNG to PNG."""
    for pixels in student(decoded((encoded * batch)[:batch]), batch_size=batch):
        encode(pixels)


def network(student: Student, images: Pixels, batch: int) -> Callable[[], object]:
    """The forward pass of a batch, and nothing else."""
    x = to_tensor(np.resize(images, (batch, *images.shape[1:]))).to(student.device)

    def work() -> None:
        with torch.inference_mode():
            student.generator(x)

    return work


def timed(work: Callable[[], object], batch: int) -> float:
    """Seconds a picture: the median of at least five rounds and two seconds, after a first one."""
    work()
    spent = [seconds(work) for _ in range(ROUNDS)]
    while sum(spent) < LONG_ENOUGH:
        spent.append(seconds(work))
    return float(np.median(spent)) / batch


def decoded(encoded: list[bytes]) -> Pixels:
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])


def error(made: Pixels, wanted: Pixels) -> float:
    return float(np.square((made.astype(np.float64) - wanted) / 255).mean())


if __name__ == "__main__":
    raise SystemExit(main())
