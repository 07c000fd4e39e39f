"""The autoencoder: 64×64 pixels to 16×16×4 latents and back."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from p2pz_ray.mini.training.data import Recipe, batches, drawn, sheet, to_signal
from p2pz_ray.mini.training.loop import Checkpoint, Numbers, bfloat16_pays, compiled, on_gpu, processor, required, train
from p2pz_ray.mini.training.muon import optimizers


def build_vae(recipe: Recipe) -> AutoencoderKL:
    channels = tuple(recipe["vae"]["channels"])
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=recipe["size"],
        mid_block_add_attention=False,
    )
    return vae.to(memory_format=torch.channels_last)


def train_vae(recipe: Recipe, out: Path) -> None:
    settings = recipe["vae"]
    images = drawn(recipe, out)[0].to(processor())
    torch.manual_seed(recipe["seed"])
    vae = build_vae(recipe)
    _to_processor(vae, settings)
    moving = optimizers(vae.named_parameters(), decay=1e-4)
    last: dict[str, Any] = {}

    def prepare(start: int) -> Any:
        draws = batches(len(images), settings["batch"], recipe["seed"], start)

        def loss_at(step: int) -> tuple[torch.Tensor, Numbers]:
            x = to_signal(images[next(draws)])
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
            last.update(x=x, y=y.detach())
            kl = posterior.kl().mean()
            loss, psnr = closeness(y, x)
            # A channel that the encoder gave up is all noise: its deviation is the prior's, 1.
            alive = (posterior.std.detach().mean((0, 2, 3)) < 0.5).sum()
            return loss + settings["kl"] * kl, {"psnr": psnr, "kl": kl.detach(), "channels": alive.float()}

        return loss_at

    train(
        settings,
        Checkpoint(out / "vae.pt", vae=vae, **moving),
        prepare,
        seed=recipe["seed"],
        bfloat16=bfloat16_pays(),
        saved=lambda step: sheet(torch.cat([last["x"][:8], last["y"][:8]]), out / "vae.png"),
    )


def _to_processor(vae: AutoencoderKL, settings: Recipe) -> None:
    vae.to(processor())
    if not on_gpu():  # on a GPU the whole training takes little longer than compiling
        compiled(vae.encoder, settings)
        compiled(vae.decoder, settings)


def closeness(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far apart two batches of pictures in -1 … 1 are: the loss, and the PSNR in decibels."""
    error = y.float() - x
    squared = error.square().mean()
    return error.abs().mean() + 4 * squared, -10 * (squared.detach() / 4).log10()


def train_decoder(recipe: Recipe, out: Path) -> None:
    """Train the decoder alone further. Latents don't change, so the UNet can be trained at the same time."""
    settings = recipe["decoder"]
    images, _ = drawn(recipe, out)
    means = latents(recipe, images, out).chunk(2, dim=1)[0].to(processor())
    images = images.to(processor())
    vae = build_vae(recipe)
    required(out / "vae.pt", "vae", vae=vae)
    _to_processor(vae, settings)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    moving = optimizers(((name, p) for name, p in vae.named_parameters() if p.requires_grad), decay=1e-4)

    def prepare(start: int) -> Any:
        draws = batches(len(images), settings["batch"], recipe["seed"], start)

        def loss_at(step: int) -> tuple[torch.Tensor, Numbers]:
            index = next(draws)
            loss, psnr = closeness(vae.decode(means[index]).sample, to_signal(images[index]))
            return loss, {"psnr": psnr}

        return loss_at

    checkpoint = Checkpoint(out / "decoder.pt", vae=vae, **moving)
    train(settings, checkpoint, prepare, seed=recipe["seed"], bfloat16=bfloat16_pays())


def trained_vae(recipe: Recipe, out: Path) -> AutoencoderKL:
    """The VAE as it ships, with the further trained decoder if there is one."""
    vae = build_vae(recipe)
    required(out / "vae.pt", "vae", vae=vae)
    Checkpoint(out / "decoder.pt", vae=vae).load()
    return vae


@torch.no_grad()
def latents(recipe: Recipe, images: torch.Tensor, out: Path) -> torch.Tensor:
    """Unscaled posterior means and standard deviations, (N, 8, h, w), computed once for a finished VAE and kept."""
    file = out / "latents.pt"
    if file.exists() and file.stat().st_mtime > (out / "vae.pt").stat().st_mtime:
        return torch.load(file, weights_only=True)
    vae = build_vae(recipe)
    required(out / "vae.pt", "vae", vae=vae)
    vae.eval().to(processor())
    chunks = []
    for chunk in images.split(256):
        posterior = vae.encode(to_signal(chunk.to(processor()))).latent_dist
        chunks.append(torch.cat([posterior.mean, posterior.std], dim=1).cpu())
    # The same memory layout whether computed or loaded: another order of sums would change a resumed training.
    moments = torch.cat(chunks).contiguous()
    torch.save(moments, file)
    return moments
