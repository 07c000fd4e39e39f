"""One training: the networks, their optimizers, and a step of both.

Whatever is drawn by lot in a step is drawn from the seed and the step's number, for the whole batch; a worker takes its
rows of it. So a training goes on exactly as if it had never stopped, and depends on the number of workers only in
the order of its sums.
"""

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from p2pz_ray.distill.augmentation import Augmentation
from p2pz_ray.distill.average import average, decay
from p2pz_ray.distill.config import DistillConfig, LossesConfig, TrainingConfig
from p2pz_ray.distill.discriminator import Discriminator
from p2pz_ray.distill.losses import discriminator_loss, generator_loss, l1, r1_penalty
from p2pz_ray.distill.peers import Peers
from p2pz_ray.distill.shards import Order, Shards
from p2pz_ray.errors import P2PZError
from p2pz_ray.perceptual import load_perceptual
from p2pz_ray.student.generator import Lot
from p2pz_ray.student.student import build_generator

BETA2 = 0.99


class DivergedError(P2PZError):
    """A loss is no number any more."""


class Trainer:
    """generator, discriminator (None without an adversarial loss) and average, the generator that is served.

    step: steps taken. best: of the held-out pairs, None before they were looked at.
    """

    def __init__(self, config: DistillConfig, size: int, train: Shards, peers: Peers, device: str = "cpu") -> None:
        self.config, self.size, self.peers, self.device = config, size, peers, device
        self.step = 0
        self.best: dict[str, float] | None = None
        torch.manual_seed(config.seed)
        self.generator = build_generator(config.generator, size).to(device)
        self.discriminator: Discriminator | None = None
        if config.losses.adversarial:
            self.discriminator = Discriminator(config.discriminator, size, config.training.group).to(device)
        self.perceptual = load_perceptual(config.perceptual).to(device) if config.perceptual else None
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        for module in filter(None, (self.generator, self.average, self.discriminator)):
            peers.broadcast(module)
        betas = (config.training.momentum, BETA2)
        self.rates, self.optimizers = {"generator": config.training.lr}, {}
        self.optimizers["generator"] = torch.optim.Adam(self.generator.parameters(), betas=betas)
        if self.discriminator is not None:
            # The penalty is a step of its own every k: rate and betas are those of k + 1 steps in the time of k.
            k = config.losses.r1_every / (config.losses.r1_every + 1)
            self.rates["discriminator"] = (config.discriminator.lr or config.training.lr) * k
            self.optimizers["discriminator"] = torch.optim.Adam(self.discriminator.parameters(), betas=(0.0, BETA2**k))
        self.r1 = r1_weight(config.losses, size, config.training.batch)
        self._rows = peers.rows(config.training.batch, config.training.group)
        self._share = (self._rows.stop - self._rows.start) / config.training.batch
        self._pairs, self._shown = (
            Augmentation(of) for of in (config.augmentation.pairs, config.augmentation.discriminator)
        )
        self._train = train
        self._order = Order(train.rows, config.training.shuffle_shards, config.seed)
        self._ahead: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None
        self._reader = ThreadPoolExecutor(1)

    def advance(self) -> dict[str, float]:
        """Take one step; returns the losses of the whole batch. Raises DivergedError where one is no number."""
        config, lottery = self.config, torch.Generator()
        batch = config.training.batch
        lottery.manual_seed(config.seed * 1_000_003 + self.step)
        together = self._pairs.draw(batch, self.size, lottery).part(self._rows, self.device)
        shown = self._shown.draw(batch, self.size, lottery).part(self._rows, self.device)
        lot = self._lot(lottery)
        x, y = (self._pairs.apply(each.to(self.device), together) for each in self._batch())
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.rates[name] * schedule(config.training, self.step)

        opponent = self.discriminator if self.step >= config.losses.adversarial_after else None
        losses, made = self._generator_step(opponent, x, y, shown, lot)
        if opponent is not None:
            losses |= self._discriminator_step(opponent, x, y, made, shown)
        names = list(losses)
        summed = self.peers.sum(torch.stack([losses[name].float() for name in names]) * self._share)
        numbers = dict(zip(names, summed.tolist(), strict=True))
        if not torch.isfinite(summed).all():
            wrong = ", ".join(name for name, value in numbers.items() if value != value or abs(value) == float("inf"))
            raise DivergedError(f"The loss became no number in step {self.step + 1:,} ({wrong})")
        beta = decay(self.step * batch, batch, config.training.average_half_life)
        average(self.average, self.generator, beta)
        self.step += 1
        return numbers

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on exactly from here."""
        return {
            "step": self.step,
            "best": self.best,
            **{name: module.state_dict() for name, module in self._modules().items()},
            **{f"{name}_optimizer": optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load(self, state: dict[str, Any], name: str) -> None:
        """Go on from a state; P2PZError, with its name, for that of another training."""
        try:
            for part, module in self._modules().items():
                module.load_state_dict(state[part])
            for part, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state[f"{part}_optimizer"])
            self.step, self.best = int(state["step"]), state["best"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise P2PZError(
                f"{name} is the checkpoint of another training ({str(error).splitlines()[0].rstrip(':.')}): remove it, "
                "or choose another output."
            ) from None

    def _modules(self) -> dict[str, nn.Module]:
        known = {"generator": self.generator, "average": self.average, "discriminator": self.discriminator}
        return {name: module for name, module in known.items() if module is not None}

    def _generator_step(
        self, opponent: Discriminator | None, x: Tensor, y: Tensor, shown: Any, lot: Lot
    ) -> tuple[dict[str, Tensor], Tensor]:
        weights, losses = self.config.losses, {}
        if opponent is not None:
            opponent.requires_grad_(False)
        with self._cast():
            made = self.generator(x, lot)
            losses["l1"] = l1(made, y).mean()
            total = weights.l1 * losses["l1"]
            if opponent is not None:
                logits = opponent(self._shown.apply(made, shown), self._shown.apply(x, shown))
                losses["generator"] = generator_loss(logits).mean()
                total = total + weights.adversarial * losses["generator"]
            if self.perceptual is not None and weights.perceptual and self.step % weights.perceptual_every == 0:
                losses["perceptual"] = self.perceptual(made, y).mean()
                total = total + weights.perceptual * weights.perceptual_every * losses["perceptual"]
        self._descend("generator", self.generator, total)
        return {name: loss.detach() for name, loss in losses.items()}, made.detach()

    def _discriminator_step(
        self, judge: Discriminator, x: Tensor, y: Tensor, made: Tensor, shown: Any
    ) -> dict[str, Tensor]:
        judge.requires_grad_(True)
        condition = self._shown.apply(x, shown)
        with self._cast():
            real = judge(self._shown.apply(y, shown), condition)
            fake = judge(self._shown.apply(made, shown), condition)
            loss = discriminator_loss(real, fake).mean()
        self._descend("discriminator", judge, loss)
        losses = {"discriminator": loss.detach()}
        every = self.config.losses.r1_every
        if self.r1 and self.step % every == 0:  # in float32 and eager: it is differentiated twice
            picture = y.detach().requires_grad_()
            penalty = r1_penalty(judge(self._shown.apply(picture, shown), condition), picture).mean()
            self._descend("discriminator", judge, penalty * (self.r1 / 2 * every))
            losses["r1"] = penalty.detach()
        return losses

    def _descend(self, name: str, module: nn.Module, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        (loss * self._share).backward()
        self.peers.sum_gradients(module.parameters())
        optimizer.step()

    def _lot(self, lottery: torch.Generator) -> Lot:
        batch, own = self.config.training.batch, self.config.generator
        if own.architecture == "mobile":
            return Lot()
        z = torch.randn(batch, own.z, generator=lottery) if own.z else None
        if z is not None:
            self.generator.mapping.track(z.to(self.device))  # of the whole batch, so alike on all workers
        drop = None
        if own.dropout:
            drop = (torch.rand(batch, own.code, generator=lottery) >= own.dropout).float() / (1 - own.dropout)
        noise = [torch.randn(batch, 1, s, s, generator=lottery) for s in self.generator.noise_sides]

        def mine(drawn: Tensor | None) -> Tensor | None:
            return None if drawn is None else drawn[self._rows].to(self.device)

        return Lot(mine(z), mine(drop), [each[self._rows].to(self.device) for each in noise] or None)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """The pairs of this step; the next step's are read meanwhile."""
        step, ahead = self.step, self._ahead
        here = ahead[1].result() if ahead and ahead[0] == step else self._train.read(self._numbers(step))
        self._ahead = step + 1, self._reader.submit(self._train.read, self._numbers(step + 1))
        return here

    def _numbers(self, step: int) -> list[int]:
        return self._order.at(step * self.config.training.batch, self.config.training.batch)[self._rows]

    def _cast(self) -> AbstractContextManager[Any]:
        wanted = self.config.training.precision
        low = wanted == "bfloat16" or (wanted == "auto" and self.device == "cuda")
        return torch.autocast(self.device, torch.bfloat16, enabled=low)


def schedule(training: TrainingConfig, step: int) -> float:
    """The share of the rate that a step has: it rises at first, and falls to zero at last."""
    rising = (step + 1) / max(training.warmup, 1)
    falling = (training.steps - step) / max(training.steps * training.cooldown, 1)
    return min(1.0, rising, falling)


def r1_weight(losses: LossesConfig, size: int, batch: int) -> float:
    """γ, by StyleGAN2-ADA's rule where none is given (arXiv 2006.06676)."""
    return 0.0002 * size**2 / batch if losses.r1 is None else losses.r1
