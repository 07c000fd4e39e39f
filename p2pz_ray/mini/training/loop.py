"""The training loop: warm up, hold, cool down; checkpoints, a log, and resuming after a kill."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D

from p2pz_ray.editing.model import chosen_device

CHECKPOINT_EVERY = 250
"""Steps between checkpoints; long trainings write forty checkpoints in all."""
LOG_EVERY = 50
LONG = 1000
"""Steps from which compiling is worth its time on a CPU."""
Numbers = dict[str, torch.Tensor]


class Checkpoint:
    """Everything a training needs to resume: named modules, their optimizers and the step."""

    def __init__(self, file: Path, **parts: Any):
        self.file, self.parts = file, parts

    def load(self) -> int:
        """Restore the parts; returns the step to resume from (0 without a checkpoint)."""
        if not self.file.exists():
            return 0
        saved = torch.load(self.file, "cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return int(saved["step"])

    def save(self, step: int) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        fresh = self.file.with_suffix(".tmp")
        torch.save({"step": step, **state}, fresh)
        os.replace(fresh, self.file)


def required(file: Path, what: str, **parts: Any) -> None:
    """Load parts of the checkpoint of an earlier training. Raises SystemExit if there is none."""
    if Checkpoint(file, **parts).load() == 0:
        raise SystemExit(f"{file} is missing: train the {what} first")


def processor() -> torch.device:
    """The device to train on: the GPU if there is one."""
    return torch.device(chosen_device("auto"))


def on_gpu() -> bool:
    return processor().type == "cuda"


def bfloat16_pays() -> bool:
    """Whether convolutions are faster in bfloat16: on a GPU, and on a CPU that multiplies tiles of it (AMX)."""
    return on_gpu() or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def compiled(network: torch.nn.Module, settings: dict[str, Any]) -> None:
    """Compile a network in place: always on a GPU, and on a CPU with fast bfloat16 for trainings of many `steps`."""
    if on_gpu():
        network.compile()
    elif settings["steps"] >= LONG and bfloat16_pays() and shutil.which("g++"):
        for part in network.modules():
            if isinstance(part, Upsample2D):
                # torch 2.13, compiling it for CPUs, loses its gradient.
                part.forward = torch.compiler.disable(part.forward)  # type: ignore[method-assign]
        network.compile(dynamic=False)


class Log:
    """Prints progress every LOG_EVERY steps, and writes the same numbers to a file as JSON lines."""

    def __init__(self, file: Path, total: int):
        self.file, self.total = file, total
        self.sums: Numbers = {}
        self.count = 0
        self.began = time.time()

    def add(self, step: int, losses: Numbers) -> None:
        self.count += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss
        if (step + 1) % LOG_EVERY == 0 or step + 1 == self.total:
            means = {name: round(total.item() / self.count, 5) for name, total in self.sums.items()}
            line = {"step": step + 1, **means, "steps/s": round(self.count / (time.time() - self.began), 2)}
            print(f"{step + 1}/{self.total} {line}", flush=True)
            with self.file.open("a") as f:
                f.write(json.dumps(line) + "\n")
            self.sums, self.count, self.began = {}, 0, time.time()


def train(
    settings: dict[str, Any],
    checkpoint: Checkpoint,
    prepare: Callable[[int], Callable[[int], tuple[torch.Tensor, Numbers]]],
    *,
    seed: int,
    bfloat16: bool,
    after: Callable[[int], None] = lambda step: None,
    saved: Callable[[int], None] = lambda step: None,
) -> None:
    """Run the remaining steps of `settings["steps"]`.

    checkpoint: the loop steps the optimizers among its parts.
    prepare: takes the step to resume from; returns a function that takes a step and returns its loss and numbers to
        log.
    bfloat16: whether to compute the loss in bfloat16 where that is safe (autocast).
    after: called after each step; saved: called after each checkpoint.
    """
    total = settings["steps"]
    optimizers = [part for part in checkpoint.parts.values() if isinstance(part, torch.optim.Optimizer)]
    every = max(CHECKPOINT_EVERY, total // 40)
    start = checkpoint.load()  # replaces the optimizers' groups
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group["params"]]
    loss_at = prepare(start)
    log = Log(checkpoint.file.with_suffix(".jsonl"), total)
    for step in range(start, total):
        # Warm up, hold, then fall linearly to zero: a longer training can start from any held checkpoint.
        share = min(1.0, (step + 1) / 200, (total - step) / settings["cooldown"])
        for group in groups:
            group["lr"] = settings["rate"] * share
        torch.manual_seed(seed + step)
        with torch.autocast(processor().type, torch.bfloat16, enabled=bfloat16):
            loss, numbers = loss_at(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        after(step)
        log.add(step, {"loss": loss.detach(), **numbers})
        if (step + 1) % every == 0 or step + 1 == total:
            checkpoint.save(step + 1)
            saved(step + 1)
