"""The lab's tables and pictures: `python -m p2pz_ray.lab TABLE … [--count 200] [--seed 271828]`.

    vae clip text inversion edits    what the miniature can do
    parts                            what each part of the method is worth on --task, at the paper's settings
    guidance                         --task's λ from none to too much at the paper's settings and at the checkpoint's
                                     own; judge against error drawn to --drawing
    forms                            --task's λ in the paper's form of the guidance and in the published code's
    rivals                           SDEdit and DDIM inversion with a swapped word on --task
    diffusers                        diffusers' own pix2pix-zero on --task at --steps, --lambda-xa, --cfg, beside ours
    hold                             edits confined by the model's own maps, and the masks it finds
    soft                             one grey mask over --task's pictures, from black to white
    sheet                            --count scenes of every task, drawn to --drawing
    hold-sheet                       --count scenes confined by maps and under a grey mask, drawn to --drawing
    student                          --student beside its teacher on the tasks that it knows: quality, strengths,
                                     several edits at once; what the teacher makes is kept in --kept
    student-sheet                    the first scenes of the same, drawn to --drawing

All scenes are held out. Errors are mean squared differences of pixel values 0 … 1; changes come with their paired 95 %
interval.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from p2pz_ray.lab import figures, hold, parts, rivals, students
from p2pz_ray.lab.bench import TASKS, Bench
from p2pz_ray.mini import MODEL
from p2pz_ray.mini.judge import FOLDER
from p2pz_ray.report.ablation import Variant, trade_off
from p2pz_ray.student import Student

TABLES = (*figures.FIGURES, "parts", "guidance", "forms", "rivals", "diffusers", "hold", "soft", "sheet", "hold-sheet",
          "student", "student-sheet")  # fmt: skip
SETTINGS: dict[str, parts.Shared] = {"the paper's settings": figures.PAPER, "the defaults": {}}
FORMS: dict[str, parts.Shared] = {"the paper's form": figures.PAPER, "the code's form": figures.OFFICIAL}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m p2pz_ray.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", metavar="TABLE", choices=TABLES)
    parser.add_argument("--count", type=int, default=200, help="scenes")
    parser.add_argument("--seed", type=int, default=271828, help="of the scenes; no training has had it")
    parser.add_argument("--task", choices=TASKS, default="cat2dog")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--judge", type=Path, default=FOLDER)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of p2pz_ray's own edits")
    parser.add_argument(
        "--lambdas",
        type=float,
        nargs="+",
        default=parts.LAMBDAS,
        help="of guidance and forms, the first of them none",
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--lambda-xa", type=float, default=0.1)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--drawing", type=Path, help="the file that guidance, forms, sheet and student-sheet draw to")
    parser.add_argument("--student", default="mini", help="a folder that p2pz distill wrote, or mini")
    parser.add_argument("--kept", type=Path, help="a folder for the teacher's edits, which are made once")
    given = parser.parse_args()
    bench = Bench(given.model, given.judge, given.count, given.seed, getattr(torch, given.dtype))
    tables: dict[str, Callable[[], figures.Table]] = {
        "parts": lambda: parts.parts(bench, given.task, figures.PAPER),
        "rivals": lambda: rivals.rivals(bench, given.task, figures.PAPER),
        "diffusers": lambda: rivals.beside_diffusers(bench, given.task, given.steps, given.lambda_xa, given.cfg),
        "hold": lambda: hold.confine(bench),
        "soft": lambda: hold.soft(bench, given.task),
        "guidance": lambda: _guidance(bench, given.task, SETTINGS, given.lambdas, given.drawing),
        "forms": lambda: _guidance(bench, given.task, FORMS, given.lambdas, given.drawing),
    }
    if any(name.startswith("student") for name in given.what):
        student, taught = Student.from_pretrained(given.student), students.Taught(bench, given.kept)
    for name in given.what:
        if name == "sheet":
            figures.sheet(bench, given.drawing or Path("tasks.jpg"))
            continue
        if name == "hold-sheet":
            hold.sheet(bench, given.drawing or Path("hold.png"))
            continue
        if name == "student-sheet":
            students.sheet(taught, student, TASKS, given.drawing or Path("student.png"))
            continue
        if name == "student":
            for title, made in students.tables(taught, student, TASKS).items():
                _print(f"student: {title}", made)
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
    found: figures.Table = []
    points: dict[Variant, tuple[float, float]] = {}
    for name, shared in settings.items():
        (head, *rows), outcomes = parts.guidance(bench, task, shared, lambdas)
        found = (found or [["settings", *head]]) + [[name, *row] for row in rows]
        for lambda_xa, outcome in zip(lambdas, outcomes, strict=True):
            point = float(outcome.error.mean()), float(outcome.hits.mean())
            points[Variant(f"{name}, λ {lambda_xa:g}", name, f"{lambda_xa:g}", {})] = point
    if file:
        file.write_text(trade_off(points, "judge's share", "error to the truth"))
    return found


if __name__ == "__main__":
    main()
