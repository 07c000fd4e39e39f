"""The training loop that each worker runs: resume from the newest checkpoint, step, score, save.

OUTPUT/checkpoints/   everything needed to resume exactly
OUTPUT/student/       the average generator that scored best on the held-out pairs
OUTPUT/sheets/        source, teacher and student of held-out pairs, one picture per checkpoint
OUTPUT/log/           the losses, one JSON-lines file per checkpoint
OUTPUT/_SUCCESS       written last
"""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.distill.board import Board
from p2pz_ray.distill.checkpoint import Checkpoints
from p2pz_ray.distill.peers import Peers
from p2pz_ray.distill.shards import Shards
from p2pz_ray.distill.trainer import DivergedError, Trainer
from p2pz_ray.errors import P2PZError
from p2pz_ray.picture.codec import encode
from p2pz_ray.running.progress import duration
from p2pz_ray.student.student import save_student, to_pixels

SCORED_ROWS = 16
SHEET_ROWS = 8

Scores = dict[str, float]


def train(
    config: DistillConfig,
    peers: Peers,
    say: Callable[[str], None],
    device: str = "cpu",
    together: Callable[[Scores], None] = lambda losses: None,
) -> None:
    """Train to the last step, from the newest checkpoint if there is one. The pairs must be prepared.

    say: called with each line of progress, on the first worker. together: called by every worker after each checkpoint,
    with the losses of the last step. Raises P2PZError where a loss is not finite or a checkpoint is of another
    training.
    """
    folder = RunFolder(config.output, config.output_storage_options)
    index = folder.read_json("pairs/index.json")
    shards = Shards(folder, index, "train", config.training.shuffle_shards * 2)
    trainer = Trainer(config, index["size"], shards, peers, device)
    checkpoints, first = Checkpoints(folder, config.training.keep), peers.rank == 0
    steps = checkpoints.steps()
    if steps:
        trainer.load(checkpoints.load(steps[-1], device), checkpoints.name(steps[-1]))
        if first:
            say(f"Going on from {checkpoints.name(steps[-1])}.")
    log = _Log(config, trainer.step, say)
    board = Board(folder, config) if first else None
    total, every = config.training.steps, config.training.checkpoint_every
    while trainer.step < total:
        try:
            losses = trainer.advance()
        except DivergedError as error:
            raise P2PZError(f"{error}: {_last_good(checkpoints)}") from None
        means = log.add(trainer.step, losses, printed=first)
        if means and board is not None:
            board.losses(trainer.step, means)
        if trainer.step % every and trainer.step < total:
            continue
        if board is not None:
            _evaluate(config, folder, index, trainer, board)
            log.put(folder)
            board.put()
            checkpoints.save(trainer.step, trainer.state())
        together(losses)
    if board is not None:
        board.close()
        held_out = sum(shard["rows"] for shard in index["test"])
        if trainer.best is None:
            raise P2PZError(
                f"No held-out score was finite, so {config.output} has no student: begin again in another output "
                "with a lower training.lr."
            )
        summary = {"steps": trainer.step, "size": index["size"], "edits": list(index["edits"]), "held_out": held_out}
        summary["best"] = trainer.best
        folder.write_json("_SUCCESS", summary)


def scores(trainer: Trainer, pairs: Shards, most: int) -> Scores:
    """The distances to the teacher, of the average generator and of the unedited source, on at most `most` pairs.

    error: mean squared distance of pixel values 0 … 1. perceptual: the learned distance, where there is one.
    `identity_…`: those of the source.
    """
    sums: dict[str, float] = {}
    numbers = pairs.evenly(most)
    for start in range(0, len(numbers), SCORED_ROWS):
        x, y, direction = (tensor.to(trainer.device) for tensor in pairs.read(numbers[start : start + SCORED_ROWS]))
        with torch.no_grad():
            for prefix, answer in (("", _answer(trainer, x, direction)), ("identity_", x)):
                distances = {"error": ((answer - y) / 2).square().mean((1, 2, 3)).sum()}
                if trainer.perceptual is not None:
                    distances["perceptual"] = trainer.perceptual(answer, y).sum()
                for name, value in distances.items():
                    sums[prefix + name] = sums.get(prefix + name, 0.0) + float(value)
    return {name: value / len(numbers) for name, value in sums.items()}


def _answer(trainer: Trainer, x: Tensor, direction: Tensor) -> Tensor:
    """The average generator's answer, clipped."""
    answer: Tensor = trainer.average(x, direction if direction.shape[1] else None)
    return answer.clamp(-1, 1)


def _evaluate(config: DistillConfig, folder: RunFolder, index: dict[str, Any], trainer: Trainer, board: Board) -> None:
    """Score the average generator on held-out pairs, or on training pairs where none are held out; draw the sheet, and
    save the student if it is the best so far."""
    test = Shards(folder, index, "test", held=1)
    pairs = test if len(test) else Shards(folder, index, "train", held=1)
    current = scores(trainer, pairs, config.training.evaluated)
    if math.isfinite(current[config.metric]) and (
        trainer.best is None or current[config.metric] < trainer.best[config.metric]
    ):
        trainer.best = {"step": trainer.step, **current}
        facts = {
            "pairs": sum(shard["rows"] for shard in index["train"]),
            "held_out_pairs": min(len(test), config.training.evaluated),
            "filter": config.pairs.filter,
            "losses": config.losses.model_dump(),
            "batch": config.training.batch,
            **trainer.best,
        }
        save_student(folder.store, "student", trainer.average, pairs.repertoire, facts, config.half)
    x, y, direction = pairs.read(pairs.evenly(SHEET_ROWS))
    with torch.no_grad():
        answer = _answer(trainer, x.to(trainer.device), direction.to(trainer.device)).cpu()
    rows = [np.concatenate(list(to_pixels(pictures)), axis=1) for pictures in (x, y, answer)]
    sheet = np.concatenate(rows, axis=0)
    folder.store.write(f"sheets/step-{trainer.step:08}.png", encode(sheet))
    board.scores(trainer.step, current, sheet)


def _last_good(checkpoints: Checkpoints) -> str:
    steps = checkpoints.steps()
    if not steps:
        return "there is no checkpoint yet, so begin again with a lower training.lr."
    return f"the last good checkpoint is {checkpoints.name(steps[-1])}, so go on from it with a lower training.lr."


class _Log:
    """A line of progress every so many steps, and the same numbers as JSON lines beside the checkpoints."""

    def __init__(self, config: DistillConfig, step: int, say: Callable[[str], None]) -> None:
        self._config, self._say = config.training, say
        self._sums: dict[str, list[float]] = {}
        self._lines: list[str] = []
        self._started, self._first = time.monotonic(), step

    def add(self, step: int, losses: Scores, printed: bool) -> Scores | None:
        """The mean losses since the last line, if a line is due; else None."""
        for name, value in losses.items():
            self._sums.setdefault(name, []).append(value)
        if step % self._config.log_every and step < self._config.steps:
            return None
        means = {name: round(sum(values) / len(values), 5) for name, values in self._sums.items()}
        self._sums = {}
        rate = (step - self._first) / (time.monotonic() - self._started)
        self._lines.append(json.dumps({"step": step, **means, "steps_per_second": round(rate, 3)}))
        if printed:
            remaining = duration((self._config.steps - step) / rate)
            values = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
            done = f"step {step:,} of {self._config.steps:,} ({step / self._config.steps:.0%})"
            self._say(f"{done}, {rate * self._config.batch:.1f} images/s, {remaining} left; {values}")
        return means

    def put(self, folder: RunFolder) -> None:
        """Write the lines since the last call, named by the last line's step."""
        if self._lines:
            step = json.loads(self._lines[-1])["step"]
            folder.store.write(f"log/step-{step:08}.jsonl", ("\n".join(self._lines) + "\n").encode())
        self._lines = []
