"""A Stable Diffusion checkpoint as the four functions that the method needs: encode, decode, embed, predict."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from p2pz_ray.errors import ConfigError, first_line

CHUNK = 8  # images that the autoencoder takes at once: it needs far more memory an image than the UNet
SENTENCES = 64  # sentences embedded at once
# What diffusers, transformers and safetensors raise for folders that are incomplete, damaged or of another kind.
UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)


def chosen_device(device: str) -> str:
    """Where a model goes: "auto" is a GPU where there is one. Raises ConfigError for "cuda" where there is none."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is cuda, but no GPU is found here: set device to auto (or, in a cluster, replicas.gpus to 1)."
        )
    return device


class TextEncoder:
    """Sentences to the last hidden states that condition the UNet. Always float32: it is small, and its
    precision is the direction's."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel):
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """Load only the text half of a checkpoint, as making a direction needs it."""
        try:
            return cls(
                CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
                CLIPTextModel.from_pretrained(
                    folder, subfolder="text_encoder", dtype=torch.float32, use_safetensors=True
                ),
            )
        except UNLOADABLE as error:
            raise ConfigError(f"the text encoder of {folder} can't be loaded: {first_line(error)}") from error

    @property
    def tokens(self) -> int:
        return int(self.tokenizer.model_max_length)

    @property
    def width(self) -> int:
        return int(self.encoder.config.hidden_size)

    @property
    def fingerprint(self) -> str:
        """16 hex digits naming this encoder; equal for its fp16 and fp32 files, so a direction fits both."""
        digest = hashlib.sha256(f"{self.tokens}x{self.width}".encode())
        for name, parameter in sorted(self.encoder.named_parameters()):
            head = parameter.detach().flatten()[:256].half().cpu().numpy().tobytes()
            digest.update(name.split("text_model.")[-1].encode() + head)
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def embed(self, sentences: list[str]) -> Tensor:
        """(n, L, D) float32 last hidden states, padded or cut to L tokens."""
        found = []
        for at in range(0, len(sentences), SENTENCES):
            tokens = self.tokenizer(
                sentences[at : at + SENTENCES],
                padding="max_length",
                truncation=True,
                max_length=self.tokens,
                return_tensors="pt",
            )
            ids = tokens.input_ids.to(self.encoder.device)
            # Stable Diffusion 1.x attends to its padding; some later checkpoints say that they don't.
            mask = tokens.attention_mask.to(ids.device) if self._masks else None
            found.append(self.encoder(ids, attention_mask=mask)[0])
        return torch.cat(found)

    @property
    def _masks(self) -> bool:
        return bool(getattr(self.encoder.config, "use_attention_mask", False))


class DiffusionModel:
    """A latent diffusion checkpoint: B images of H×W pixels, latents of 4 channels and h×w cells."""

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text: TextEncoder,
        scheduler: DDIMScheduler,
        defaults: dict[str, Any] | None = None,
    ):
        self.vae = vae.eval().requires_grad_(False)
        self.unet = unet.eval().requires_grad_(False)
        self.text = text
        self.scheduler = scheduler
        self.defaults = defaults or {}
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ConfigError(f"the checkpoint predicts {kind!r}: only epsilon and v_prediction are supported")
        self.prediction = kind

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "DiffusionModel":
        """Load a StableDiffusionPipeline folder; its optional `editing.json` holds its own editing defaults."""
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder,
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
                dtype={"default": dtype, "text_encoder": torch.float32},
                use_safetensors=True,
                low_cpu_mem_usage=False,  # what it saves needs another package, and its absence is warned of
            )
        except UNLOADABLE as error:
            reason = first_line(error)
            raise ConfigError(f"model {folder} can't be loaded as a StableDiffusionPipeline: {reason}") from error
        pipeline.to(device)
        if device.startswith("cuda"):
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        notes = folder / "editing.json"
        return cls(
            vae=pipeline.vae,
            unet=pipeline.unet,
            text=TextEncoder(pipeline.tokenizer, pipeline.text_encoder),
            scheduler=DDIMScheduler.from_config(pipeline.scheduler.config),
            defaults=json.loads(notes.read_text()) if notes.is_file() else None,
        )

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def factor(self) -> int:
        """Pixels a latent cell, on a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def side(self) -> int:
        """The picture's side in pixels that the checkpoint was trained at."""
        return int(self.unet.config.sample_size) * self.factor

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> Tensor:
        """(B, H, W, 3) uint8 → (B, 4, h, w) float32 scaled latents: the posterior's mean, so that no draw is
        involved."""
        signal = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        means = [
            self.vae.encode(chunk.to(self.device, self.vae.dtype)).latent_dist.mean.float()
            for chunk in signal.split(CHUNK)
        ]
        return torch.cat(means) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """(B, 4, h, w) scaled latents → (B, H, W, 3) uint8."""
        pictures = []
        for chunk in (latents / self.vae.config.scaling_factor).split(CHUNK):
            signal = self.vae.decode(chunk.to(self.vae.dtype)).sample.float()
            pixels = ((signal + 1) * 127.5).round().clamp(0, 255).byte()
            pictures.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures)

    def embed(self, sentences: list[str]) -> Tensor:
        """n sentences → (n, L, D) float32."""
        return self.text.embed(sentences)

    def predict(self, x: Tensor, t: int, c: Tensor, level: float) -> Tensor:
        """ε(x, t, c): (B, 4, h, w) noise in latents x under embeddings c (B, L, D); `level` is x's own ā.

        Differentiable in x.
        """
        return self.epsilon(self.output(x, t, c), x, level)

    def output(self, x: Tensor, t: int, c: Tensor) -> Tensor:
        """What the UNet says, ε or v as it was trained, in x's precision."""
        return self.unet(x.to(self.unet.dtype), t, c.to(self.unet.dtype)).sample.to(x.dtype)

    def epsilon(self, output: Tensor, x: Tensor, level: float) -> Tensor:
        """The noise that an output means for x: itself, or √ā v + √(1-ā) x (Salimans and Ho 2022)."""
        return output if self.prediction == "epsilon" else level**0.5 * output + (1 - level) ** 0.5 * x
