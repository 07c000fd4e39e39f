"""`distill`: from a configuration to a student."""

from dataclasses import dataclass
from typing import Any

import torch

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config import difference, record
from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.distill.board import check_boards
from p2pz_ray.distill.loop import train
from p2pz_ray.distill.peers import Peers
from p2pz_ray.distill.shards import prepare_pairs
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.perceptual import load_perceptual

# Keys that decide where and how long the training runs, or what it keeps, but not the weights of a given step.
_FREE = ("workers", "export")
_FREE_OF_TRAINING = ("steps", "micro_batch", "keep", "log_every", "tensorboard", "wandb")


@dataclass(frozen=True)
class Distilled:
    """The result of a training. best: the saved student's scores, on `held_out` held-out pairs, or on the training
    pairs where that is 0. fresh: False where there was nothing to do."""

    output: str
    steps: int
    best: dict[str, float]
    held_out: int
    fresh: bool = True

    def __str__(self) -> str:
        done = f"{self.output}: {self.steps:,} steps; the student is that of step {int(self.best['step']):,}"
        if not self.fresh:
            done = f"{self.output} is finished already, so there was nothing to do ({self.steps:,} steps)"
        lines = [f"{done}. On {'held-out pairs' if self.held_out else 'the pairs it learned from'}, from the teacher:"]
        for name in ("error", "perceptual"):
            if name in self.best:
                lines.append(f"  {name}: student {self.best[name]:.4f}, source left as it is ")
                lines[-1] += f"{self.best[f'identity_{name}']:.4f}"
        return "\n".join(lines)


def distill(config: DistillConfig) -> Distilled:
    """Train a student, or resume a training.

    Raises ConfigError, before the training begins, where the configuration is wrong; P2PZError where the training can't
    go on: the same call then resumes from the last checkpoint.
    """
    folder = RunFolder(config.output, config.output_storage_options)
    recorded = folder.config()
    if recorded is not None:
        _refuse_difference(config, recorded)
        finished = folder.read_json("_SUCCESS")
        if finished is not None and finished["steps"] >= config.training.steps:
            return _distilled(config.output, finished, fresh=False)
        begun = recorded["training"]["steps"]
        if begun != config.training.steps:
            print(
                f"The training was begun for {begun:,} steps and now goes on to {config.training.steps:,}.", flush=True
            )
    elif folder.store.list("checkpoints") or folder.store.list("data"):
        raise ConfigError(f"{config.output} holds something that is no training: choose another output.")
    check_boards(config.training)
    if config.perceptual:
        load_perceptual(config.perceptual)
    _check_device(config)
    index = prepare_pairs(config, folder)
    if recorded is None:
        _refuse_difference(config, folder.create_config(record(config)))
    parts = {part: sum(shard["rows"] for shard in index[part]) for part in ("train", "test")}
    left_out = ", ".join(f"“{reason}” took {count:,}" for reason, count in index["dropped"].items() if count)
    print(
        f"{parts['train']:,} pairs of {index['size']} px to learn from, {parts['test']:,} held out"
        + (f"; of {index['total']:,}, {left_out}." if left_out else "."),
        flush=True,
    )
    if config.workers.bounds[1]:
        from p2pz_ray.distill.workers import train_on_ray  # Ray is loaded only after all checks

        train_on_ray(config)
    else:
        train(config, Peers(), lambda line: print(line, flush=True), device_of(config))
    finished = folder.read_json("_SUCCESS")
    if finished is None or finished["steps"] < config.training.steps:
        raise P2PZError(f"The training of {config.output} ended before its last step: run the same command again.")
    if config.export:
        from p2pz_ray.student.export import export_student

        for kind in config.export:
            print(f"Wrote {export_student(folder.store, 'student', kind)}.", flush=True)
    return _distilled(config.output, finished)


def _distilled(output: str, finished: dict[str, Any], fresh: bool = True) -> Distilled:
    """The result from the content of `_SUCCESS`."""
    return Distilled(output, finished["steps"], finished["best"], finished["held_out"], fresh)


def device_of(config: DistillConfig) -> str:
    """The device that this process trains on."""
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def _check_device(config: DistillConfig) -> None:
    if config.device == "cuda" and not config.workers.bounds[1] and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but this machine has no GPU: set device to cpu, or name workers elsewhere.")


def _refuse_difference(config: DistillConfig, recorded: dict[str, Any]) -> None:
    differing = difference(_deciding(recorded), _deciding(record(config)))
    if differing:
        raise ConfigError(
            f"{config.output} holds a training of another configuration: {'; '.join(differing)}. "
            "Set it back, or choose another output."
        )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that decide a step's weights. With a cooldown `steps` is one of them, since the rate depends on it."""
    keys = {key: value for key, value in config.items() if key not in _FREE}
    training = dict(keys.get("training") or {})
    free = [key for key in _FREE_OF_TRAINING if not (key == "steps" and training.get("cooldown"))]
    return keys | {"training": {key: value for key, value in training.items() if key not in free}}
