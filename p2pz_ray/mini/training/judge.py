"""The judge's training, on scenes of its own, slightly blurred and noised, as generated pictures are."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from p2pz_ray.mini.judge import Judge
from p2pz_ray.mini.scene import CHOICES
from p2pz_ray.mini.training.data import Recipe, batches, drawn, to_signal
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, bfloat16_pays, on_gpu, processor, train


def build_judge(recipe: Recipe) -> Judge:
    judge = Judge(tuple(recipe["judge"]["channels"]))
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return judge


def train_judge(recipe: Recipe, out: Path) -> None:
    settings = recipe["judge"]
    images, scenes = drawn(recipe, out, "judged", held_out=None)
    torch.manual_seed(recipe["judged"]["seed"])
    judge = build_judge(recipe)
    judge.to(processor())
    images = images.to(processor())
    optimizer = torch.optim.AdamW(judge.parameters(), betas=(0.9, 0.99), weight_decay=2e-2, fused=on_gpu())
    right = {
        name: torch.tensor([options.index(getattr(scene, name)) for scene in scenes])
        for name, options in CHOICES.items()
    }
    # A zebra has no coat of its own.
    right["coat"][[scene.kind == "zebra" for scene in scenes]] = -100
    right = {name: numbers.to(processor()) for name, numbers in right.items()}

    def prepare(start: int) -> Any:
        draws = batches(len(images), settings["batch"], recipe["judged"]["seed"], start)

        def loss_at(step: int) -> tuple[torch.Tensor, Numbers]:
            index = next(draws)
            logits = judge(roughened(to_signal(images[index])))
            losses = {name: F.cross_entropy(logits[name], right[name][index], ignore_index=-100) for name in logits}
            hits = (logits["kind"].argmax(1) == right["kind"][index]).float().mean()
            return torch.stack(list(losses.values())).sum(), {"kind": hits}

        return loss_at

    train(
        settings,
        Checkpoint(out / "judge.pt", judge=judge, optimizer=optimizer),
        prepare,
        seed=recipe["judged"]["seed"],
        bfloat16=bfloat16_pays(),
    )


def roughened(x: torch.Tensor) -> torch.Tensor:
    """Blurs about half of the pictures and adds some noise to all, so that an autoencoder's softness does not fool the
    judge."""

    def chance() -> torch.Tensor:
        return torch.rand(len(x), 1, 1, 1, device=x.device)

    strength = chance() * (chance() < 0.5)
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), strength)
    return x + 0.08 * chance() * torch.randn_like(x)
