"""The ControlNet: makes the UNet, whose weights stay fixed, follow the outline of the animal or of all edges."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from p2pz_ray.editing.canny import edges
from p2pz_ray.mini.training.captions import Captions
from p2pz_ray.mini.training.clip import trained_text
from p2pz_ray.mini.training.data import CHUNK, Recipe, batches, drawn, in_parallel
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, bfloat16_pays, compiled, processor, required, train
from p2pz_ray.mini.training.muon import optimizers
from p2pz_ray.mini.training.noise import build_scheduler, denoising_loss, noised
from p2pz_ray.mini.training.unet import build_unet
from p2pz_ray.mini.training.vae import latents
from p2pz_ray.mini.world import Scene, outline


def build_control(recipe: Recipe, unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the UNet's encoder, with its weights, but without attention, which would double the size."""
    channels = tuple(recipe["unet"]["channels"])
    control = ControlNetModel(
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(channels),
        mid_block_type="UNetMidBlock2D",
        cross_attention_dim=recipe["text"]["width"],
        attention_head_dim=tuple(c // recipe["unet"]["head_width"] for c in channels),
        norm_num_groups=16,
        conditioning_embedding_out_channels=tuple(recipe["vae"]["channels"]),
    )
    weights = unet.state_dict()
    control.load_state_dict({name: weights.get(name, value) for name, value in control.state_dict().items()})
    return control.to(memory_format=torch.channels_last)


def train_control(recipe: Recipe, out: Path) -> None:
    settings, seed = recipe["control"], recipe["seed"]
    images, scenes = drawn(recipe, out)
    scale = 1 / latents(recipe, images, out).chunk(2, dim=1)[0].std().item()
    count = min(settings["scenes"], len(scenes))
    mean = latents(recipe, images, out).chunk(2, dim=1)[0][:count].to(processor())
    lines = drawn_lines(images[:count], scenes[:count], out).to(processor())
    text = trained_text(recipe, out)[1].to(processor())
    captions = Captions(recipe, out, scenes, recipe["unet"]["dropout"])
    torch.manual_seed(seed)
    unet = build_unet(recipe)
    required(out / "unet.pt", "unet", ema=unet)
    unet.requires_grad_(False).to(processor())
    control = build_control(recipe, unet).to(processor())
    print(f"{sum(p.numel() for p in control.parameters()) / 1e6:.2f} M parameters", flush=True)
    ema = copy.deepcopy(control).requires_grad_(False)
    alphas = build_scheduler().alphas_cumprod.to(processor())
    compiled(unet, settings)
    compiled(control, settings)

    def prepare(start: int) -> Any:
        draws = batches(count, settings["batch"], seed, start)

        def loss_at(step: int) -> tuple[Tensor, Numbers]:
            index = next(draws)
            with torch.no_grad():
                c = text(captions(index)).last_hidden_state
            x0 = scale * mean[index]
            x, t, noise = noised(x0, alphas)
            whole = (torch.rand(len(index), device=index.device) < settings["whole"]).long()
            told = (lines[index, whole].float() / 255)[:, None].expand(-1, 3, -1, -1)
            down, middle = control(x, t, c, told.contiguous(memory_format=torch.channels_last), return_dict=False)
            said = unet(x, t, c, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
            return denoising_loss(said, noise, alphas[t], recipe["unet"]["min_snr"])

        return loss_at

    @torch.no_grad()
    def average(step: int) -> None:
        decay = min(settings["ema"], (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.parameters()), list(control.parameters()), 1 - decay)

    moving = optimizers(control.named_parameters(), decay=1e-2)
    checkpoint = Checkpoint(out / "control.pt", control=control, ema=ema, **moving)
    train(settings, checkpoint, prepare, seed=seed, bfloat16=bfloat16_pays(), after=average)


def drawn_lines(images: Tensor, scenes: list[Scene], out: Path) -> Tensor:
    """(N, 2, size, size) uint8: each animal's outline, and the edges of the whole picture. Drawn once and kept."""
    file = out / "lines.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if len(saved) == len(scenes):
            return saved
    size = images.shape[-1]
    pictures = images.permute(0, 2, 3, 1).numpy()
    pieces = [(scenes[i : i + CHUNK], pictures[i : i + CHUNK]) for i in range(0, len(scenes), CHUNK)]
    made = torch.from_numpy(np.concatenate(in_parallel(_Lines(size), pieces)))
    torch.save(made, file)
    return made


@dataclass(frozen=True)
class _Lines:
    """Draws the lines of one unit of scenes."""

    size: int

    def __call__(self, piece: tuple[list[Scene], np.ndarray]) -> np.ndarray:
        return np.stack(
            [
                np.stack([outline(scene, self.size)[..., 0], edges(picture)[..., 0]])
                for scene, picture in zip(*piece, strict=True)
            ]
        )
