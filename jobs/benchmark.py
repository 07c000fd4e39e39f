"""The editor beside diffusers' own pix2pix-zero pipeline: same weights, same pictures, one run.

    python jobs/benchmark.py [--model mini] [--collection URI] [--edit cat2dog] [--images 8]

The collection is Parquet with truth columns, as `p2pz world` writes it; without one, a fresh one is drawn. Every row
edits the same pictures. Seconds are the process's own on a CPU, the clock's on a GPU. Evaluations are UNet passes of
one picture, a map gradient (∇) counted as the passes that ours takes as long as, a pass that ends early as a whole one.
Error is the mean squared distance from the exact truth, of pixel values 0 … 1; judge, where the miniature's judge is
at hand, is the share of edits in which it sees what was asked for.
"""

import argparse
import io
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.editing import EditDirection, Editor, GuidanceSettings, InversionSettings
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.editing.passes import attention_gradient
from p2pz_ray.evaluation.metrics.truth import Truth, TruthSums
from p2pz_ray.lab.rivals import diffusers_pipeline, edited_by
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.judge import Judge
from p2pz_ray.picture.codec import encode

Pixels = NDArray[np.uint8]
ENCODER = ("down_blocks", "mid_block")
VARIANTS: dict[str, tuple[InversionSettings, GuidanceSettings]] = {}
"""The rows: at 50, 25, 15, 10 and 8 steps everything exact, then each shortcut."""
for _steps in (50, 25, 15, 10, 8):
    _shortcuts: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        f"{_steps} steps": ({}, {}),
        f"{_steps}, reconstructed reference": ({}, {"reference": "reconstruction"}),
        f"{_steps}, guided 0.5": ({}, {"guided": 0.5}),
        f"{_steps}, gradient every 2": ({}, {"guided_every": 2}),
        f"{_steps}, negative every 2": ({}, {"negative_every": 2}),
        f"{_steps}, negative every 5": ({}, {"negative_every": 5}),
        f"{_steps}, reuse": ({}, {"reuse": True}),
        f"{_steps}, lean": ({}, {"guided_every": 2, "negative_every": 2, "reuse": True}),
        f"{_steps}, leanest": ({}, {"guided_every": 2, "negative_every": 5, "reuse": True}),
        f"{_steps}, encoder's layers": ({}, {"layers": ENCODER}),
        f"{_steps}, order 2 down": ({}, {"order": 2}),
        f"{_steps}, order 2 up and down": ({"order": 2}, {"order": 2}),
    }
    for _name, (_up, _down) in _shortcuts.items():
        VARIANTS[_name] = (InversionSettings(steps=_steps, **_up), GuidanceSettings(**_down))


class Meter:
    """Counts what one editor asks of its UNet, and the bytes of the maps that live at once."""

    def __init__(self, editor: Editor, weight: float) -> None:
        self.passes = self.gradients = self.maps = 0
        editor.model.unet.register_forward_pre_hook(self.count)
        meet, self._weight, self._recorded = editor.maps.meet, weight, editor.maps.recorded

        def watch(layer: str, maps: torch.Tensor) -> None:
            meet(layer, maps)
            self.maps = max(self.maps, sum(m.nbytes for m in self._recorded.values()))

        editor.maps.meet = watch  # type: ignore[method-assign]

    def count(self, unet: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self.gradients += len(args[0])
        else:
            self.passes += len(args[0])

    def clear(self) -> None:
        self.passes = self.gradients = self.maps = 0

    def evaluations(self, edits: int) -> str:
        """An edit's, in passes: those it is made of, plain ones and gradients."""
        passes, gradients = self.passes / edits, self.gradients / edits
        return f"{passes + self._weight * gradients:.0f} = {passes:.0f} + {gradients:.0f} ∇"


def gradient_weight(editor: Editor, rows: int = 8, rounds: int = 9) -> float:
    """How many plain passes one map gradient takes as long as: the shortest of alternating measurements."""
    model, side = editor.model, editor.model.side // editor.model.factor
    x, c = torch.randn(rows, 4, side, side, device=model.device), model.embed(["a picture"] * rows)

    def plain() -> None:
        with torch.no_grad():
            model.predict(x, 401, c, 0.5)

    def compared() -> None:
        with torch.no_grad(), editor.maps.record():
            model.predict(x, 401, c, 0.5)
        spent.append(seconds(lambda: attention_gradient(model, x, 401, c, 0.5)))

    spent: list[float] = []
    forward = []
    for _ in range(rounds):
        forward.append(seconds(plain))
        compared()
    return min(spent) / min(forward)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes: on a GPU by the clock, on a CPU in the process's own time, which a busy machine changes
    little."""
    clock = time.process_time
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        clock = time.perf_counter
    started = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def by_diffusers(
    pipeline: Any, editor: Editor, images: Pixels, captions: list[str], direction: EditDirection, steps: int
) -> Pixels:
    """diffusers' pipeline, one picture at a time, at the checkpoint's own settings."""
    lambda_xa, cfg, strength = editor.guidance.resolve(editor.model)
    rounds = 0 if editor.inverts.regularization == "none" else editor.inverts.reg_steps
    delta = strength * direction.embedding
    return np.stack(
        [
            edited_by(pipeline, pixels, words, delta, steps, lambda_xa, cfg, reg_steps=rounds)
            for pixels, words in zip(images, captions, strict=True)
        ]
    )


def _judge(edit: str) -> tuple[Judge | None, WorldEdit]:
    try:
        return Judge.load(), WorldEdit.parse(edit)
    except FileNotFoundError:
        return None, WorldEdit.parse(edit)


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} thread(s)"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--collection", help="Parquet with truth; by default drawn anew")
    parser.add_argument("--edit", default="cat2dog")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[50, 10], help="of diffusers' pipeline; × is over the first"
    )
    parser.add_argument("--rivals", type=int, help="pictures that diffusers' pipeline edits; by default all")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), metavar="ROW")
    parser.add_argument("--directions", type=int, nargs="*", default=[1, 4], help="K, how many an inversion serves")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as scratch:
        uri = given.collection
        if uri is None:
            from p2pz_ray.mini.dataset import write_world

            uri = write_world(scratch + "/world", given.images, 0, (given.edit,))
        return compare(given, uri)


def compare(given: argparse.Namespace, uri: str) -> int:
    truth = Truth(uri)
    rows = pq.read_table(uri).slice(0, given.images).to_pylist()
    sources = [row["image"]["bytes"] for row in rows]
    images = np.stack([np.asarray(Image.open(io.BytesIO(source)).convert("RGB")) for source in sources])
    captions, ids = [row["caption"] for row in rows], [str(row["id"]) for row in rows]

    editor = Editor.from_pretrained(given.model, device="cuda" if torch.cuda.is_available() else "cpu")
    source, target = WorldEdit.parse(given.edit).words
    direction = editor.direction(template_bank(source, 1000), template_bank(target, 1000))
    weight = gradient_weight(editor)
    meter = Meter(editor, weight)
    print(f"{machine()}; torch {torch.__version__}; {len(images)} pictures, {given.edit}, model {given.model}")
    print(f"a map gradient takes as long as {weight:.2f} passes; K is the number of directions an inversion serves\n")
    judge, asked = _judge(given.edit)
    print(
        "| editor | seconds an edit | × | evaluations an edit | maps alive, KiB an image | error | background | judge |"
    )
    print("|---|---|---|---|---|---|---|---|")

    def line(name: str, spent: float, ratio: float, counted: str, maps: str, made: Pixels) -> None:
        sums = TruthSums()
        for id, before, after in zip(ids, sources, made, strict=False):
            if error := truth.error(id, given.edit, before, encode(after, "png", 95)):
                sums.add(error)
        mean = sums.mean
        outside = "–" if mean.edited_background is None else f"{mean.edited_background:.4f}"
        seen = "–" if judge is None else f"{np.mean([asked.shown(found) for found in judge.see(made)]):.0%}"
        cells = [name, f"{spent:.2f}", f"{ratio:.1f}", counted, maps, f"{mean.edited:.4f}", outside, seen]
        print(f"| {' | '.join(cells)} |", flush=True)

    kept: dict[str, Pixels] = {}
    pipeline = diffusers_pipeline(locate(given.model), editor.model.device)
    pipeline.unet.register_forward_pre_hook(meter.count)

    line("the source left as it is", 0.0, float("nan"), "0", "0", images)
    base, few = 0.0, given.rivals or len(images)
    for steps in given.steps:

        def reference(steps: int = steps) -> None:
            kept["made"] = by_diffusers(pipeline, editor, images[:few], captions[:few], direction, steps)

        meter.clear()
        spent = seconds(reference)
        spent /= len(kept["made"])
        base = base or spent
        counted = meter.evaluations(len(kept["made"]))
        some = "" if few >= len(images) else f", {few} of the pictures"
        line(f"diffusers, {steps} steps, one at a time{some}", spent, base / spent, counted, "–", kept["made"])

    for name in given.only:
        editor.inversion, editor.guidance = VARIANTS[name]
        for K in given.directions:
            meter.clear()

            def work(K: int = K) -> None:
                inversion = editor.invert(images, captions, list(range(len(images))))
                kept["made"] = editor.edit(inversion, [direction] * K)[:, 0]

            edits = len(images) * K
            spent = seconds(work) / edits
            label = f"ours, {name}, K = {K}"
            maps = f"{meter.maps / len(images) / 1024:.0f}"
            line(label, spent, base / spent, meter.evaluations(edits), maps, kept["made"])
    print(f"\npeak memory of the whole run {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
