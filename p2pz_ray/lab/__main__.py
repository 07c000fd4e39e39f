"""The lab's tables and pictures: `python -m p2pz_ray.lab TABLE … [--count 200] [--seed 271828]`.

    vae clip text inversion edits    how good the miniature itself is
    parts                            what each part of the method contributes on --task, at the paper's settings
    guidance                         --task at several λ, at the paper's settings and at the checkpoint's own defaults,
                                     these also in the form of the published code;
                                     the judge's share is plotted against the error in --drawing
    forms                            --task at several λ, guided as in the paper and as in the published code
    rivals                           other methods on --task: SDEdit, and DDIM inversion with a swapped word
    diffusers                        diffusers' own pix2pix-zero on --task at --steps, --lambda-xa, --cfg, beside ours
    hold                             edits confined to masks from the model's own attention maps, and how good those
                                     masks are
    soft                             --task under uniform grey masks, from black to white
    sketch                           --task under outlines of the truth, and of another animal, through --control
    sheet                            a picture of --count scenes of every task, written to --drawing
    hold-sheet, sketch-sheet         the same of edits confined by maps and under a grey mask, and under outlines
    student                          --student beside its teacher on the tasks that it knows: quality, strengths,
                                     several edits at once; the teacher's edits are kept in --kept
    student-sheet                    a picture of the first of those scenes, written to --drawing

All scenes are held out. Errors are mean squared differences of pixel values 0 … 1; changes come with their paired 95 %
interval.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from p2pz_ray.lab import figures, hold, parts, rivals, sketches, students
from p2pz_ray.lab.bench import TASKS, Bench
from p2pz_ray.mini import CONTROL, MODEL
from p2pz_ray.mini.judge import FOLDER
from p2pz_ray.report.ablation import Variant, trade_off
from p2pz_ray.student import Student

TABLES = (*figures.FIGURES, "parts", "guidance", "forms", "rivals", "diffusers", "hold", "soft", "sketch", "sheet",
          "hold-sheet", "sketch-sheet", "student", "student-sheet")  # fmt: skip
SETTINGS: dict[str, parts.Shared] = {
    "the paper's settings": figures.PAPER,
    "the defaults": {},
    "the defaults, in the code's form": {"guidance": {"form": "official"}},
}
FORMS: dict[str, parts.Shared] = {"the paper's form": figures.PAPER, "the code's form": figures.OFFICIAL}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m p2pz_ray.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", metavar="TABLE", choices=TABLES)
    parser.add_argument("--count", type=int, default=200, help="scenes")
    parser.add_argument("--seed", type=int, default=271828, help="seed of the scenes; no training has used it")
    parser.add_argument("--task", choices=TASKS, default="cat2dog")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--judge", type=Path, default=FOLDER)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of p2pz_ray's own edits"
    )
    parser.add_argument(
        "--lambdas",
        type=float,
        nargs="+",
        default=parts.LAMBDAS,
        help="λ for guidance and forms; the first must be 0",
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--lambda-xa", type=float, default=0.1)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--drawing", type=Path, help="file to draw to, for guidance, forms and sheets")
    parser.add_argument("--control", type=Path, default=CONTROL, help="a ControlNet that follows outlines")
    parser.add_argument("--student", default="mini", help="a folder that p2pz distill wrote, or mini")
    parser.add_argument("--kept", type=Path, help="folder that keeps the teacher's edits for the next time")
    args = parser.parse_args()
    bench = Bench(args.model, args.judge, args.count, args.seed, getattr(torch, args.dtype))
    tables: dict[str, Callable[[], figures.Table]] = {
        "parts": lambda: parts.parts(bench, args.task, figures.PAPER),
        "rivals": lambda: rivals.rivals(bench, args.task, figures.PAPER),
        "diffusers": lambda: rivals.beside_diffusers(bench, args.task, args.steps, args.lambda_xa, args.cfg),
        "hold": lambda: hold.confine(bench),
        "soft": lambda: hold.soft(bench, args.task),
        "sketch": lambda: sketches.table(bench, args.task, args.control),
        "guidance": lambda: _guidance(bench, args.task, SETTINGS, args.lambdas, args.drawing),
        "forms": lambda: _guidance(bench, args.task, FORMS, args.lambdas, args.drawing),
    }
    if any(name.startswith("student") for name in args.what):
        student, taught = Student.from_pretrained(args.student), students.Taught(bench, args.kept)
    for name in args.what:
        if name == "sheet":
            figures.sheet(bench, args.drawing or Path("tasks.jpg"))
            continue
        if name == "hold-sheet":
            hold.sheet(bench, args.drawing or Path("hold.png"))
            continue
        if name == "sketch-sheet":
            sketches.sheet(bench, args.task, args.drawing or Path("sketch.png"), args.control)
            continue
        if name == "student-sheet":
            students.sheet(taught, student, TASKS, args.drawing or Path("student.png"))
            continue
        if name == "student":
            for title, rows in students.tables(taught, student, TASKS).items():
                _print(f"student: {title}", rows)
            continue
        make = tables.get(name)
        _print(name, make() if make else figures.FIGURES[name](bench))


def _print(name: str, table: figures.Table) -> None:
    head, *rows = table
    print(f"\n### {name}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def _guidance(
    bench: Bench, task: str, settings: Mapping[str, parts.Shared], lambdas: Sequence[float], file: Path | None
) -> figures.Table:
    table: figures.Table = []
    points: dict[Variant, tuple[float, float]] = {}
    for name, shared in settings.items():
        (head, *rows), outcomes = parts.guidance(bench, task, shared, lambdas)
        table = (table or [["settings", *head]]) + [[name, *row] for row in rows]
        for lambda_xa, outcome in zip(lambdas, outcomes, strict=True):
            point = float(outcome.error.mean()), float(outcome.hits.mean())
            points[Variant(f"{name}, λ {lambda_xa:g}", name, f"{lambda_xa:g}", {})] = point
    if file:
        file.write_text(trade_off(points, "judge's share", "error to the truth"))
    return table


if __name__ == "__main__":
    main()
