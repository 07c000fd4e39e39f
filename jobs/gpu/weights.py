"""Random weights in a layout, editors with them, and the pictures to edit."""

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu.layouts import Family
from gpu.machine import DTYPES, Machine

CAPTIONS = ["a photo of a cat", "a cat on the grass", "the cat sleeps", "two cats, near a very old house"]
SOURCE = ["a cat", "a photo of a cat", "the cat in the snow"]
TARGET = ["a dog", "a photo of a dog", "the dog in the snow"]


def tokenizer(letters: str = "abcdefghijklmnopqrstuvwxyz0123456789-'.,") -> Any:
    """CLIP's tokenizer with a vocabulary of letters."""
    from transformers import CLIPTokenizer

    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary, merges = Path(scratch, "vocab.json"), Path(scratch, "merges.txt")
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


class Weights:
    """A family's models in float32 with random weights, made on the device, and editors with them in any precision."""

    def __init__(self, family: Family, machine: Machine) -> None:
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        from p2pz_ray.editing.text import TextEncoder

        self.family, self.machine = family, machine
        self.tokenizer = tokenizer()
        torch.manual_seed(0)
        with torch.device(machine.name):
            self.unet = UNet2DConditionModel(**family.unet).eval().requires_grad_(False)
            self.vae = AutoencoderKL(**family.vae).eval().requires_grad_(False)
            encoders = [
                (CLIPTextModelWithProjection if text.projection else CLIPTextModel)(
                    CLIPTextConfig(
                        vocab_size=family.vocabulary,
                        hidden_size=text.width,
                        intermediate_size=text.wide,
                        num_hidden_layers=text.layers,
                        num_attention_heads=text.heads,
                        hidden_act=text.act,
                        max_position_embeddings=77,
                        projection_dim=text.projection or 512,
                        bos_token_id=self.tokenizer.bos_token_id,
                        eos_token_id=self.tokenizer.eos_token_id,
                        pad_token_id=self.tokenizer.pad_token_id,
                    )
                )
                for text in family.texts
            ]
        self.text = TextEncoder([self.tokenizer] * len(encoders), encoders)
        self.text.encoder.to(machine.name)
        self.scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=family.prediction,
        )
        self._scale()

    @torch.no_grad()
    def _scale(self) -> None:
        """Scale the random weights so that attention logits differ by about 2 and outputs have unit size."""
        for name, module in self.unet.named_modules():
            if name.endswith(("attn1", "attn2")):
                module.to_q.weight *= 2.5
                module.to_k.weight *= 2.5
        side = self.unet.config.sample_size
        x = torch.randn(2, 4, side, side, device=self.machine.name)
        out = self.editor("float32").model.output(x, 500, self.text.embed(CAPTIONS[:2]))
        self.unet.conv_out.weight /= out.std()
        self.unet.conv_out.bias /= out.std()

    def editor(self, name: str) -> Any:
        """An editor with a copy of these weights in a precision."""
        from p2pz_ray.editing.editor import Editor
        from p2pz_ray.editing.model import DiffusionModel

        dtype = DTYPES[name]
        unet, vae = copy.deepcopy(self.unet).to(dtype), copy.deepcopy(self.vae)
        upcast = self.family.unet.get("addition_embed_type") and vae.config.force_upcast and dtype == torch.float16
        vae = vae if upcast else vae.to(dtype)
        if self.machine.gpu:  # as when a checkpoint is loaded
            unet, vae = (part.to(memory_format=torch.channels_last) for part in (unet, vae))
        return Editor(DiffusionModel(vae, unet, self.text, self.scheduler))

    def pictures(self, count: int) -> Any:
        """(count, H, W, 3) uint8: smooth and all different."""
        rng = np.random.default_rng(1)
        coarse = torch.from_numpy(rng.random((count, 3, 8, 8), dtype=np.float32))
        fine = torch.nn.functional.interpolate(coarse, self.family.pixels, mode="bicubic").clamp(0, 1)
        return (fine.permute(0, 2, 3, 1) * 255).byte().numpy()


def run(editor: Any, pictures: Any, steps: int, K: int = 1) -> tuple[Any, Any, Any]:
    """(inversion, latents, pictures) of a whole edit."""
    editor.inversion = replace(editor.inversion, steps=steps)
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(len(pictures))]
    inversion = editor.invert(pictures, captions, list(range(len(pictures))))
    direction = editor.direction(SOURCE, TARGET)
    latents = editor.edit_latents(inversion, [direction] * K)
    return inversion, latents, editor.model.decode(latents.flatten(0, 1))[0]
