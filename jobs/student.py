"""A student beside its teacher, the editor, and beside the source left as it is: how right, and how fast, in one run.

    python jobs/student.py STUDENT [--collection URI] [--edit cat2dog] [--images 16] [--model mini] [--diffusers 1]

The collection is Parquet with truth columns, as `p2pz world` writes it; without one, a fresh one is drawn: give a seed
that the student's own pairs were not made with. Error is the mean squared distance from the exact truth, of pixel
values 0 … 1; background is the same where the truth is the source; to teacher is the distance from what the editor
made. Judged is the share of pictures in which the miniature's judge sees the target, where its weights are.
Seconds are of a picture, decoded from PNG and encoded again, at the batch named.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from benchmark import by_diffusers, machine, seconds
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray import Editor, Student
from p2pz_ray.collection.codec import encode
from p2pz_ray.editing.checkpoint import locate
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.judge import FOLDER, Judge

Pixels = NDArray[np.uint8]
BATCHES = (1, 4, 16, 64)
ROUNDS = 3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--collection", help="Parquet with truth; by default drawn anew")
    parser.add_argument("--seed", type=int, default=1_000_003, help="of a collection drawn anew")
    parser.add_argument("--edit", default="cat2dog")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--model", default="mini", help="the teacher")
    parser.add_argument("--diffusers", type=int, default=1, help="pictures that diffusers' pipeline edits; 0 for none")
    parser.add_argument("--steps", type=int, default=50, help="of diffusers' pipeline")
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
    direction = editor.direction(*(template_bank(word, 1000) for word in edit.words))
    judge = Judge.load() if (FOLDER / "model.safetensors").exists() else None
    kept: dict[str, Pixels] = {}

    def taught() -> None:
        inversion = editor.invert(images, captions, list(range(len(images))))
        kept["teacher"] = editor.edit(inversion, [direction])[:, 0]

    print(f"{machine()}; torch {torch.__version__}; {len(images)} pictures, {given.edit}, teacher {given.model}\n")
    print("| engine | seconds a picture | × | error | background | to teacher | judged |")
    print("|---|---|---|---|---|---|---|")
    teacher = seconds(taught) / len(images)
    reference = teacher

    def line(name: str, spent: float | None, made: Pixels | None) -> None:
        time = ["–", "–"] if spent is None else [f"{spent:.5f}", f"{reference / spent:,.1f}"]
        right = ["–"] * 4
        if made is not None:
            same = (images == truths).all(axis=3)
            seen = "–" if judge is None else f"{np.mean([edit.shown(found) for found in judge.see(made)]):.0%}"
            right = [f"{error(made, truths):.4f}", f"{error(made[same], truths[same]):.4f}"]
            right += [f"{error(made, kept['teacher']):.4f}", seen]
        print(f"| {' | '.join([name, *time, *right])} |", flush=True)

    line("the source left as it is", None, images)
    if given.diffusers:
        few = slice(0, given.diffusers)

        def theirs() -> None:
            arguments: Any = (editor, images[few], captions[few], direction, given.steps)
            kept["diffusers"] = by_diffusers(str(locate(given.model)), *arguments)

        reference = seconds(theirs) / len(images[few])
        whole = kept["diffusers"] if len(kept["diffusers"]) == len(images) else None
        line(f"diffusers, {given.steps} steps, one at a time", reference, whole)
    line("the editor, the teacher", teacher, kept["teacher"])
    made = student(images)
    for batch in BATCHES:
        line(f"the student, batch {batch}", timed(lambda b=batch: through(student, encoded, b), batch), made)
        line(f"the student, batch {batch}, network alone", timed(network(student, images, batch), batch), None)
    return 0


def through(student: Student, encoded: list[bytes], batch: int) -> None:
    """A batch of pictures from PNG to PNG."""
    for pixels in student(decoded((encoded * batch)[:batch]), batch_size=batch):
        encode(pixels)


def network(student: Student, images: Pixels, batch: int) -> Callable[[], object]:
    """The forward pass of a batch, and nothing else."""
    x = torch.from_numpy(np.resize(images, (batch, *images.shape[1:]))).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = x.to(student.device)

    def work() -> None:
        with torch.inference_mode():
            student.generator(x)

    return work


def timed(work: Callable[[], object], batch: int) -> float:
    """Seconds a picture: the median of some rounds after a first one."""
    work()
    return float(np.median([seconds(work) for _ in range(ROUNDS)])) / batch


def decoded(encoded: list[bytes]) -> Pixels:
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])


def error(made: Pixels, wanted: Pixels) -> float:
    return float(np.square((made.astype(np.float64) - wanted) / 255).mean())


if __name__ == "__main__":
    raise SystemExit(main())
