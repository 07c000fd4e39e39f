"""A Stable Diffusion checkpoint, 1.x, 2.x or XL, as the four functions that the method needs: encode, decode, embed,
predict."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from p2pz_ray.editing.attention import CrossAttentionMaps
from p2pz_ray.editing.checkpoint.kind import check_kind, read_json
from p2pz_ray.editing.checkpoint.lora import Lora, fuse
from p2pz_ray.editing.checkpoint.weights import variant_in
from p2pz_ray.editing.control import Controls
from p2pz_ray.editing.text import UNLOADABLE, Condition, TextEncoder, is_xl
from p2pz_ray.errors import ConfigError, first_line

__all__ = ["DiffusionModel", "TextEncoder", "chosen_device"]

CHUNK = 8 * 512 * 512  # pixels that the autoencoder takes at once: it needs far more memory for them than the UNet


def chosen_device(device: str) -> str:
    """The device for a model: "auto" is the GPU if there is one. Raises ConfigError for "cuda" without a GPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is cuda, but no GPU is found here: set device to auto (or, in a cluster, replicas.gpus to 1)."
        )
    return device


class DiffusionModel:
    """A latent diffusion checkpoint: B images of H×W pixels, latents of 4 channels and h×w cells."""

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text: TextEncoder,
        scheduler: DDIMScheduler,
        defaults: dict[str, Any] | None = None,
        zero_empty: bool = False,
    ):
        self.vae = vae.eval().requires_grad_(False)
        self.unet = unet.eval().requires_grad_(False)
        self.fast: Callable[..., Any] = self.unet
        """The UNet for passes without maps: compiled, after `compile`."""
        self.checkpointed = False
        """Whether backward passes recompute the inside of each block instead of storing it."""
        self.maps = CrossAttentionMaps(self.unet)
        self.room: int | None = None
        """Number of rows per gradient that fit into memory; None until it has run out."""
        self.controls = Controls((), ())
        """The controls, to which `Condition.hints` belong."""
        self.text = text
        self.scheduler = scheduler
        self.defaults = defaults or {}
        self.zero_empty = zero_empty
        """Whether an empty negative is all zeros instead of the embedding of "", as SDXL was trained."""
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ConfigError(f"the checkpoint predicts {kind!r}: only epsilon and v_prediction are supported")
        self.prediction = kind

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae: Path | None = None,
        loras: Sequence[Lora] = (),
    ) -> "DiffusionModel":
        """Load a StableDiffusionPipeline or StableDiffusionXLPipeline folder; its optional `editing.json` holds its own
        editing defaults. `vae` is the folder of another autoencoder, `loras` are fused into the weights."""
        check_kind(folder)
        half, xl = dtype != torch.float32, is_xl(folder)
        text = TextEncoder.load(folder, loras)
        try:
            unet = _load(UNet2DConditionModel, folder / "unet", dtype, half)
            autoencoder = _load(AutoencoderKL, vae or folder / "vae", dtype, half)
            scheduler = DDIMScheduler.from_config(read_json(folder / "scheduler" / "scheduler_config.json"))
        except UNLOADABLE as error:
            raise ConfigError(f"model {folder} can't be loaded: {first_line(error)}") from error
        for lora in loras:
            fuse(lora, {"unet": unet})
        if xl and autoencoder.config.force_upcast and dtype == torch.float16:
            autoencoder.float()  # this autoencoder overflows half precision, and says so
        text.encoder.to(device)
        unet, autoencoder = unet.to(device), autoencoder.to(device)
        if device.startswith("cuda"):
            unet.to(memory_format=torch.channels_last)
            autoencoder.to(memory_format=torch.channels_last)
        notes = folder / "editing.json"
        defaults = json.loads(notes.read_text()) if notes.is_file() else None
        zeros = xl and read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt", True)
        return cls(autoencoder, unet, text, scheduler, defaults, zero_empty=bool(zeros))

    def compile(self) -> "DiffusionModel":
        """Compile the UNet with torch.compile for passes without maps: the first passes of each size take minutes,
        later ones are faster. The numbers are the same up to rounding.

        Raises ConfigError if there is no compiler.
        """
        try:
            with torch.no_grad():
                torch.compile(torch.nn.Linear(1, 1, device=self.device))(torch.ones(1, 1, device=self.device))
        except Exception as error:  # a missing compiler, driver or Triton: each its own kind
            raise ConfigError(
                f"compile is true, but torch.compile makes no kernel here ({first_line(error)}): install gcc, and "
                "Triton for a GPU, or set compile to false"
            ) from error
        self.fast = torch.compile(self.unet)
        return self

    def checkpoint(self) -> "DiffusionModel":
        """Store only the blocks' inputs for backward passes: less memory, more time, the same numbers."""
        self.unet.enable_gradient_checkpointing()
        self.checkpointed = True
        return self

    @property
    def dtype(self) -> str:
        """The weights' precision, as a configuration names it."""
        return str(self.unet.dtype).removeprefix("torch.")

    @property
    def vae_dtype(self) -> str:
        return str(self.vae.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def factor(self) -> int:
        """Pixels per latent cell and side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def side(self) -> int:
        """The picture's side in pixels that the checkpoint was trained at."""
        return int(self.unet.config.sample_size) * self.factor

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> Tensor:
        """(B, H, W, 3) uint8 → (B, 4, h, w) float32 scaled latents: the posterior's mean, so that no draw is
        involved."""
        signal = torch.from_numpy(np.require(images, requirements=["C", "W"])).permute(0, 3, 1, 2).float() / 127.5 - 1
        means = [
            self.vae.encode(chunk.to(self.device, self.vae.dtype)).latent_dist.mean.float()
            for chunk in signal.split(_at_once(*images.shape[1:3]))
        ]
        # Contiguous: another memory format would stay through every step, and round differently.
        return torch.cat(means).contiguous() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor, at_once: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(B, 4, h, w) scaled latents → (B, H, W, 3) uint8, and for each picture whether all of it is finite.

        At most `at_once` are decoded together.
        """
        height, width = (side * self.factor for side in latents.shape[-2:])
        pictures, finite = [], []
        for chunk in (latents / self.vae.config.scaling_factor).split(min(at_once or CHUNK, _at_once(height, width))):
            signal = self.vae.decode(chunk.to(self.vae.dtype)).sample.float()
            finite.append(torch.isfinite(signal).flatten(1).all(1).cpu().numpy())
            pixels = ((signal.nan_to_num(0) + 1) * 127.5).round().clamp(0, 255).byte()
            pictures.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures), np.concatenate(finite)

    def embed(self, sentences: list[str]) -> Condition:
        """The UNet's conditioning on n sentences, float32."""
        return self.text.embed(sentences)

    def negative(self, text: str, captions: Sequence[str]) -> Condition:
        """The negative condition of n images for classifier-free guidance: a text, or for "caption" their own
        captions."""
        if text == "caption":
            return self.embed(list(captions))
        c = self.embed([text] * len(captions))
        return c.each(torch.zeros_like) if self.zero_empty and not text else c

    def predict(self, x: Tensor, t: int, c: Condition, level: float, watched: bool = False) -> Tensor:
        """ε(x, t, c): (B, 4, h, w) noise in latents x under B conditions c; `level` is ā of x. watched: whether the
        pass records or compares maps.

        Differentiable in x.
        """
        return self.epsilon(self.output(x, t, c, watched), x, level)

    def output(self, x: Tensor, t: int, c: Condition, watched: bool = False) -> Tensor:
        """The UNet's output, ε or v depending on its training, in x's precision."""
        c = c.each(lambda part: part.to(self.unet.dtype))
        added = None
        if c.pooled is not None:
            # SDXL is conditioned on a picture's original size, its crop and its size: here uncropped.
            height, width = (side * self.factor for side in x.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width], dtype=self.unet.dtype, device=x.device)
            added = {"text_embeds": c.pooled, "time_ids": sizes.expand(len(x), -1)}
        unet = self.unet if watched else self.fast
        # A tensor: each number would be compiled for anew.
        time = torch.tensor(t, device=x.device)
        latents = x.to(self.unet.dtype)
        residuals = self.controls.residuals(latents, time, c.tokens, c.hints, added) if c.hints else {}
        return unet(latents, time, c.tokens, added_cond_kwargs=added, **residuals).sample.to(x.dtype)

    def epsilon(self, output: Tensor, x: Tensor, level: float) -> Tensor:
        """The noise that an output means for x: itself, or √ā v + √(1-ā) x (Salimans and Ho 2022)."""
        return output if self.prediction == "epsilon" else level**0.5 * output + (1 - level) ** 0.5 * x


def _load(kind: Any, folder: Path, dtype: torch.dtype, half: bool) -> Any:
    """A part of a checkpoint."""
    return kind.from_pretrained(
        folder,
        variant=variant_in(folder, half),
        dtype=dtype,
        use_safetensors=True,
        low_cpu_mem_usage=False,  # it needs another package, and warns if that is missing
    )


def _at_once(height: int, width: int) -> int:
    """Pictures of a size in pixels that the autoencoder takes together."""
    return max(1, CHUNK // (height * width))
