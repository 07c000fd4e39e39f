"""One training: the networks, their optimizers, and a step of both.

All random draws of a step come from the seed and the step's number, for the whole batch; a worker takes its rows of
them. So a resumed training equals one that never stopped, and the number of workers changes only the order of the
sums.
"""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from p2pz_ray.config.distill import DistillConfig, LossesConfig, TrainingConfig
from p2pz_ray.distill.augmentation import Augmentation, Draw, noises
from p2pz_ray.distill.average import average, decay
from p2pz_ray.distill.discriminator import Discriminator
from p2pz_ray.distill.losses import discriminator_loss, generator_loss, l1, r1_penalty
from p2pz_ray.distill.peers import Peers
from p2pz_ray.distill.shards import Shards, Turns
from p2pz_ray.errors import P2PZError
from p2pz_ray.perceptual import load_perceptual
from p2pz_ray.student.generator import NetworkDraws
from p2pz_ray.student.student import build_generator

BETA2 = 0.99

_Read = tuple[Tensor, Tensor, Tensor]


class DivergedError(P2PZError):
    """A loss is not finite."""


class Trainer:
    """generator, discriminator (None without an adversarial loss) and average, the generator that becomes the student.

    step: steps taken. best: the best held-out scores so far, None before the first.
    """

    def __init__(self, config: DistillConfig, size: int, train: Shards, peers: Peers, device: str = "cpu") -> None:
        self.config, self.size, self.peers, self.device = config, size, peers, device
        self.step = 0
        self.best: dict[str, float] | None = None
        torch.manual_seed(config.seed)
        self.generator = build_generator(config.generator, size, train.repertoire.width)
        self.generator = self.generator.to(device, memory_format=torch.channels_last)  # a quarter faster on a CPU
        self.discriminator: Discriminator | None = None
        if config.losses.adversarial:
            directions = train.repertoire.width
            self.discriminator = Discriminator(config.discriminator, size, config.training.group, directions)
            self.discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.perceptual = load_perceptual(config.perceptual).to(device) if config.perceptual else None
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        for module in filter(None, (self.generator, self.average, self.discriminator)):
            peers.broadcast(module)
        betas = (config.training.momentum, BETA2)
        self.rates, self.optimizers = {"generator": config.training.lr}, {}
        self.optimizers["generator"] = torch.optim.Adam(self.generator.parameters(), betas=betas)
        if self.discriminator is not None:
            # The penalty is an extra step after every `r1_every` steps: the rate and betas make up for it.
            k = config.losses.r1_every / (config.losses.r1_every + 1)
            self.rates["discriminator"] = (config.discriminator.lr or config.training.lr) * k
            self.optimizers["discriminator"] = torch.optim.Adam(self.discriminator.parameters(), betas=(0.0, BETA2**k))
        self.r1 = r1_weight(config.losses, size, config.training.batch)
        self._rows = peers.rows(config.training.batch, config.training.group)
        self._parts = _parts(self._rows, config.training)
        self._pair_augmentation, self._discriminator_augmentation = (
            Augmentation(settings) for settings in (config.augmentation.pairs, config.augmentation.discriminator)
        )
        self._train = train
        self._order = Turns(train.rows, train.edits, config.training.shuffle_shards, config.seed)
        self._ahead: tuple[int, Future[_Read]] | None = None
        self._reader = ThreadPoolExecutor(1)

    def advance(self) -> dict[str, float]:
        """Take one step; returns the losses of the whole batch. Raises DivergedError where one is not finite."""
        config = self.config
        batch = config.training.batch
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.rates[name] * schedule(config.training, self.step)
        parts = self._micro_batches()
        discriminator = self.discriminator if self.step >= config.losses.adversarial_after else None
        losses = self._generator_step(discriminator, parts)
        if discriminator is not None:
            losses |= self._discriminator_step(discriminator, parts)
        names = list(losses)
        summed = self.peers.sum(torch.stack([losses[name] for name in names]))
        numbers = dict(zip(names, summed.tolist(), strict=True))
        if not torch.isfinite(summed).all():
            wrong = ", ".join(name for name, value in numbers.items() if value != value or abs(value) == float("inf"))
            raise DivergedError(f"The loss became infinite or NaN in step {self.step + 1:,} ({wrong})")
        beta = decay(self.step * batch, batch, config.training.average_half_life)
        average(self.average, self.generator, beta)
        self.step += 1
        return numbers

    def state(self) -> dict[str, Any]:
        """All that `load` needs to resume exactly from here."""
        return {
            "step": self.step,
            "best": self.best,
            **{name: module.state_dict() for name, module in self._modules().items()},
            **{f"{name}_optimizer": optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load(self, state: dict[str, Any], name: str) -> None:
        """Resume from a state. Raises P2PZError, with its name, for a state of another training."""
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
        modules = {"generator": self.generator, "average": self.average, "discriminator": self.discriminator}
        return {name: module for name, module in modules.items() if module is not None}

    def _generator_step(self, discriminator: Discriminator | None, parts: "list[_Part]") -> dict[str, Tensor]:
        weights, losses = self.config.losses, _Sums()
        if discriminator is not None:
            discriminator.requires_grad_(False)
        self.optimizers["generator"].zero_grad(set_to_none=True)
        for part in parts:
            with self._cast():
                output = self.generator(part.x, part.direction, part.network_draws)
                total = weights.l1 * losses.add("l1", l1(output, part.y).mean(), part.share)
                if discriminator is not None:
                    condition = self._discriminator_augmentation.apply(part.x, part.draw)
                    logits = discriminator(
                        self._discriminator_augmentation.apply(output, part.draw), condition, part.direction
                    )
                    adversarial = losses.add("generator", generator_loss(logits).mean(), part.share)
                    total = total + weights.adversarial * adversarial
                if self.perceptual is not None and weights.perceptual and self.step % weights.perceptual_every == 0:
                    distance = losses.add("perceptual", self.perceptual(output, part.y).mean(), part.share)
                    total = total + weights.perceptual * weights.perceptual_every * distance
            (total * part.share).backward()
            part.output = output.detach()
        self._descend("generator", self.generator)
        return losses.sums

    def _discriminator_step(self, discriminator: Discriminator, parts: "list[_Part]") -> dict[str, Tensor]:
        discriminator.requires_grad_(True)
        losses = _Sums()
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        for part in parts:
            condition = self._discriminator_augmentation.apply(part.x, part.draw)
            with self._cast():
                real = discriminator(
                    self._discriminator_augmentation.apply(part.y, part.draw), condition, part.direction
                )
                fake = discriminator(
                    self._discriminator_augmentation.apply(part.output, part.draw), condition, part.direction
                )
                loss = losses.add("discriminator", discriminator_loss(real, fake).mean(), part.share)
            (loss * part.share).backward()
            losses.add("told_apart", ((real > 0).float().mean() + (fake < 0).float().mean()) / 2, part.share)
        self._descend("discriminator", discriminator)
        every = self.config.losses.r1_every
        if self.r1 and self.step % every == 0:  # in float32 and eager: it is differentiated twice
            self.optimizers["discriminator"].zero_grad(set_to_none=True)
            for part in parts:
                picture = part.y.detach().requires_grad_()
                condition = self._discriminator_augmentation.apply(part.x, part.draw)
                logits = discriminator(
                    self._discriminator_augmentation.apply(picture, part.draw), condition, part.direction
                )
                penalty = r1_penalty(logits, picture).mean()
                (losses.add("r1", penalty, part.share) * (self.r1 / 2 * every) * part.share).backward()
            self._descend("discriminator", discriminator)
        return losses.sums

    def _descend(self, name: str, module: nn.Module) -> None:
        """Take a step along the accumulated gradients."""
        self.peers.sum_gradients(module.parameters())
        self.optimizers[name].step()

    def _micro_batches(self) -> "list[_Part]":
        """This worker's rows of the step's batch, as micro-batches."""
        batch, rng = self.config.training.batch, torch.Generator()
        rng.manual_seed(self.config.seed * 1_000_003 + self.step)
        pair_draw = self._pair_augmentation.draw(batch, self.size, rng)
        draw = self._discriminator_augmentation.draw(batch, self.size, rng)
        network_draws = self._network_draws(rng)
        whole, parts = self._batch(), []
        for rows in self._parts:
            local = slice(rows.start - self._rows.start, rows.stop - self._rows.start)
            x, y, direction = (tensor[local].to(self.device) for tensor in whole)
            pair = pair_draw.part(rows, self.device)
            parts.append(
                _Part(
                    x=self._pair_augmentation.apply(x, pair),
                    y=self._pair_augmentation.apply(y, pair, noise=False),
                    direction=direction if direction.shape[1] else None,
                    draw=draw.part(rows, self.device),
                    network_draws=network_draws(rows),
                    share=(rows.stop - rows.start) / batch,
                )
            )
        return parts

    def _network_draws(self, rng: torch.Generator) -> Callable[[slice], NetworkDraws]:
        """The random draws for the whole batch, as a function of the rows."""
        batch, network = self.config.training.batch, self.config.generator
        if network.architecture == "mobile":
            return lambda rows: NetworkDraws()
        z = torch.randn(batch, network.z, generator=rng) if network.z else None
        if z is not None:
            self.generator.mapping.track(z.to(self.device))  # of the whole batch, so the same on all workers
        drop = None
        if network.dropout:
            mask = torch.rand(batch, network.code, generator=rng) >= network.dropout
            drop = mask.float() / (1 - network.dropout)
        seeds = torch.randint(2**62, (batch,), generator=rng)
        shapes = [(1, side, side) for side in self.generator.noise_sides]

        def of_rows(rows: slice) -> NetworkDraws:
            row_z, row_drop = (None if values is None else values[rows].to(self.device) for values in (z, drop))
            return NetworkDraws(row_z, row_drop, noises(seeds[rows], shapes, self.device) if shapes else None)

        return of_rows

    def _batch(self) -> _Read:
        """The pairs of this step; the next step's are read meanwhile."""
        step, ahead = self.step, self._ahead
        pairs = ahead[1].result() if ahead and ahead[0] == step else self._train.read(self._numbers(step))
        self._ahead = step + 1, self._reader.submit(self._train.read, self._numbers(step + 1))
        return pairs

    def _numbers(self, step: int) -> list[int]:
        return self._order.at(step * self.config.training.batch, self.config.training.batch)[self._rows]

    def _cast(self) -> AbstractContextManager[Any]:
        precision = self.config.training.precision
        low = precision == "bfloat16" or (precision == "auto" and self.device == "cuda")
        return torch.autocast(self.device, torch.bfloat16, enabled=low)


@dataclass
class _Part:
    """Rows of a batch: pictures (B, 3, H, W), directions (B, D) and the random draws. share: of the whole batch.
    output: the generator's."""

    x: Tensor
    y: Tensor
    direction: Tensor | None
    draw: Draw
    network_draws: NetworkDraws
    share: float
    output: Tensor = field(init=False)


class _Sums:
    """Losses by name, summed over a batch's parts and weighted by their shares."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, loss: Tensor, share: float) -> Tensor:
        """Add a part's loss; returns it."""
        value = loss.detach().float() * share
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        return loss


def _parts(rows: slice, training: TrainingConfig) -> list[slice]:
    """A worker's rows in parts of whole groups, none larger than `micro_batch`."""
    size = training.micro_batch or max(rows.stop - rows.start, 1)
    size = max(size // training.group, 1) * training.group
    return [slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]


def schedule(training: TrainingConfig, step: int) -> float:
    """A step's share of the learning rate: it rises during warmup and falls to zero during cooldown."""
    rising = (step + 1) / max(training.warmup, 1)
    falling = (training.steps - step) / max(training.steps * training.cooldown, 1)
    return min(1.0, rising, falling)


def r1_weight(losses: LossesConfig, size: int, batch: int) -> float:
    """γ, by StyleGAN2-ADA's rule where none is given (arXiv 2006.06676)."""
    return 0.0002 * size**2 / batch if losses.r1 is None else losses.r1
