"""What is this GPU worth, and is it right? Measured on random weights at true layout: Stable Diffusion 1.5 at 512 px,
2.1 at 768 and XL at 1024, and the student at 256 and 512.

    python jobs/accelerator.py [--seconds 480] [--out FOLDER] [--tiny]

It needs no Ray, no network and no checkpoint: a machine with PyTorch and transformers, and beside them diffusers (0.42
or later) with importlib_metadata, zipp and requests (with urllib3, idna, certifi and charset_normalizer), all of them
wheels without compiled parts.

The most telling measurements come first. One that can't end within the --seconds that are left isn't begun, one that
fails leaves its error in the table, and after each FOLDER/accelerator.json and FOLDER/accelerator.md are written anew.

float32 is without TF32, unless a row says so. Random weights are scaled so that ε has unit size and attention picks
some tokens over others. They tell of speed, memory and rounding, and nothing of pictures.
"""

import time

BEGUN = time.monotonic()

import argparse  # noqa: E402
import copy  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STEPS = 50
"""What costs are extrapolated to: those of a step times 50, and what is spent once beside them."""
FEW = (2, 4)
"""Steps of the two runs that a step's cost is the difference of."""
STUDENT = {
    "architecture": "comod",
    "base": 32768,
    "max": 512,
    "residual": False,
    "code": 1024,
    "dropout": 0.5,
    "style": 0,
    "style_layers": 2,
    "z": 0,
    "mapping_layers": 8,
    "noise": False,
    "blocks": 8,
}
"""The student's own defaults."""
CAPTIONS = ["a photo of a cat", "a cat on the grass", "the cat sleeps", "two cats, near a very old house"]
SOURCE = ["a cat", "a photo of a cat", "the cat in the snow"]
TARGET = ["a dog", "a photo of a dog", "the dog in the snow"]


@dataclass(frozen=True)
class Text:
    """A text encoder's layout; `projection` is the width of a pooled part."""

    width: int
    layers: int
    heads: int
    wide: int
    projection: int = 0
    act: str = "gelu"


@dataclass(frozen=True)
class Family:
    """A checkpoint's layout."""

    pixels: int
    unet: dict[str, Any]
    texts: tuple[Text, ...]
    vae: dict[str, Any]
    prediction: str = "epsilon"
    vocabulary: int = 49408


_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
_XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
TRUE = {
    "SD 1.5": Family(
        512,
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        (Text(768, 12, 12, 3072, act="quick_gelu"),),
        _VAE,
    ),
    "SD 2.1": Family(
        768,
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        (Text(1024, 23, 16, 4096),),
        _VAE,
        "v_prediction",
    ),
    "SDXL": Family(
        1024,
        {
            **_XL,
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (Text(768, 12, 12, 3072, act="quick_gelu"), Text(1280, 32, 20, 5120, projection=1280)),
        {**_VAE, "scaling_factor": 0.13025, "force_upcast": True},
    ),
}
_TINY_VAE = {**_VAE, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
_TINY_UNET = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 16}
_TWO = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TINY = {
    "SD 1.5": Family(
        64, {**_TINY_UNET, **_TWO, "attention_head_dim": 8}, (Text(16, 1, 2, 32),), _TINY_VAE, vocabulary=128
    ),
    "SD 2.1": Family(
        64,
        {**_TINY_UNET, **_TWO, "attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
        (Text(16, 1, 2, 32),),
        _TINY_VAE,
        "v_prediction",
        128,
    ),
    "SDXL": Family(
        64,
        {
            **_TINY_UNET,
            **_XL,
            "block_out_channels": (16, 32, 32),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (2, 4, 4),
            "cross_attention_dim": 40,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        },
        (Text(16, 2, 2, 32), Text(24, 2, 2, 32, projection=24)),
        {**_TINY_VAE, "force_upcast": True},
        vocabulary=128,
    ),
}


class Machine:
    """The device, its clock and its memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gpu = name == "cuda"

    def settle(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def free(self) -> None:
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds by the clock, and what came out."""
        self.settle()
        started = time.perf_counter()
        made = work()
        self.settle()
        return time.perf_counter() - started, made

    @contextmanager
    def watched(self, *parts: torch.nn.Module) -> Iterator[dict[str, float]]:
        """Within: the weights of `parts` and the most that is allocated beside all that was there before, in GiB;
        nothing where there is no GPU."""
        found: dict[str, float] = {}
        if self.gpu:
            self.free()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        try:
            yield found
        finally:
            if self.gpu:
                self.settle()
                weights = sum(p.nbytes for part in parts for p in part.parameters())
                found["weights, GiB"] = weights / 2**30
                found["beside them, GiB"] = (torch.cuda.max_memory_allocated() - before) / 2**30

    @property
    def total(self) -> float:
        """GiB of the device."""
        return torch.cuda.get_device_properties(0).total_memory / 2**30 if self.gpu else float("nan")

    def facts(self) -> dict[str, Any]:
        import diffusers
        import transformers

        facts = {
            "device": torch.cuda.get_device_name() if self.gpu else "CPU",
            "memory, GiB": round(self.total, 1) if self.gpu else None,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "python": platform.python_version(),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "cores": os.cpu_count(),
            "load at the start": round(os.getloadavg()[0], 1),
        }
        if self.gpu:
            facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        return facts


@dataclass
class Report:
    """Rows by section, and the two files that show them."""

    out: Path
    facts: dict[str, Any]
    begun: float
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    def add(self, section: str, rows: list[dict[str, Any]]) -> None:
        self.rows.setdefault(section, []).extend(rows)
        for row in rows:
            print(f"[{self.spent:6.1f} s] {section}: {', '.join(map(_pair, row.items()))}", flush=True)
        self.write()

    def write(self) -> None:
        choice = chosen_batch(self.rows.get("speed, SD 1.5", []), self.facts.get("memory, GiB"))
        data = {"machine": self.facts, "batch_size": choice, "rows": self.rows, "notes": self.notes}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "accelerator.json").write_text(json.dumps(data, indent=1) + "\n")
        (self.out / "accelerator.md").write_text(self.table(choice))

    def table(self, choice: int | None) -> str:
        lines = [
            "; ".join(map(_pair, self.facts.items())),
            "",
            f"Seconds of {STEPS} steps are extrapolated from runs of {FEW[0]} and {FEW[1]}, after one that warms "
            "up; `off` is a relative distance.",
            "",
        ]
        for section, rows in self.rows.items():
            keys = list(dict.fromkeys(key for row in rows for key in row))
            lines += [f"### {section}", "", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
            lines += ["| " + " | ".join(_shown(row.get(key)) for key in keys) + " |" for row in rows]
            lines.append("")
        if choice is not None:
            lines += [f"batch_size it would choose for SD 1.5 at half precision: {choice}", ""]
        return "\n".join(lines + [f"- {note}" for note in self.notes]) + "\n"


def chosen_batch(rows: list[dict[str, Any]], memory: float | None) -> int | None:
    """The smallest batch within 5 % of the most images a second that leaves a fifth of the memory free."""
    fits = [
        row
        for row in rows
        if row.get("editor") == "ours" and row["weights"] in ("float16", "bfloat16") and row["K"] == 1
        if "edits a second" in row
        if memory is None or row["weights, GiB"] + row["beside them, GiB"] <= 0.8 * memory
    ]
    if not fits:
        return None
    most = max(row["edits a second"] for row in fits)
    return min(row["batch"] for row in fits if row["edits a second"] >= 0.95 * most)


def _pair(pair: tuple[str, Any]) -> str:
    return f"{pair[0]} {_shown(pair[1])}"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "0" if value == 0 else f"{value:.3g}"
    return str(value).replace("|", "/")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Within: whether float32 products may be rounded to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def tokenizer(letters: str = "abcdefghijklmnopqrstuvwxyz0123456789-'.,") -> Any:
    """CLIP's tokenizer with letters for a vocabulary."""
    from transformers import CLIPTokenizer

    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary, merges = Path(scratch, "vocab.json"), Path(scratch, "merges.txt")
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


class Weights:
    """A family's random parts in float32 on the device, drawn there, and editors of them in any precision."""

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
        """Make the random weights behave: attention logits that differ by about 2, outputs of unit size."""
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
        """An editor of a copy of these weights in a precision."""
        from p2pz_ray.editing.editor import Editor
        from p2pz_ray.editing.model import DiffusionModel

        dtype = DTYPES[name]
        unet, vae = copy.deepcopy(self.unet).to(dtype), copy.deepcopy(self.vae)
        upcast = self.family.unet.get("addition_embed_type") and vae.config.force_upcast and dtype == torch.float16
        vae = vae if upcast else vae.to(dtype)
        if self.machine.gpu:  # as a checkpoint is loaded
            unet, vae = (part.to(memory_format=torch.channels_last) for part in (unet, vae))
        return Editor(DiffusionModel(vae, unet, self.text, self.scheduler))

    def pictures(self, count: int) -> Any:
        """(count, H, W, 3) uint8: smooth and all different."""
        draw = np.random.default_rng(1)
        coarse = torch.from_numpy(draw.random((count, 3, 8, 8), dtype=np.float32))
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


def gradient(editor: Any, x_ref: Any, x: Any, scale: float = 1.0) -> Any:
    """The guidance loss's gradient at x, its maps compared with those of x_ref; the loss times `scale` on the way."""
    model, maps, t, level = editor.model, editor.maps, 401, 0.5
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(len(x))]
    c = model.embed(captions)
    edited = c + editor.direction(SOURCE, TARGET).condition.each(
        lambda part: part.to(model.device).expand(len(x), *part.shape[1:])
    )
    with torch.no_grad(), maps.record(whole=False):
        model.predict(x_ref, t, c, level, watched=True)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        with maps.compare(whole=False):
            model.predict(leaf, t, edited, level, watched=True)
        (found,) = torch.autograd.grad(maps.loss.sum() * scale, leaf)
    maps.clear()
    return found / scale


def off(made: Any, right: Any) -> float:
    """The relative distance of two tensors."""
    return float((made.float() - right.float()).norm() / right.float().norm())


def agreement(weights: Weights, kept: dict[str, Any], name: str, steps: int, count: int) -> list[dict[str, Any]]:
    """One precision beside float32: everything from the same pictures, the gradient at float32's own latents."""
    editor, pictures = weights.editor(name), weights.pictures(count)
    with precision(name):
        inversion, latents, made = run(editor, pictures, steps)
        if name == "float32":
            noise = torch.randn(latents[:, 0].shape, generator=torch.Generator().manual_seed(5)).to(latents.device)
            kept["points"] = (inversion.trajectory[-1], inversion.trajectory[-1] + 0.3 * noise)
        plain = gradient(editor, *kept["points"])
        scaled = gradient(editor, *kept["points"], scale=1024.0)
    row: dict[str, Any] = {"weights": name, "steps": steps, "pictures": count}
    row["finite"] = bool(torch.isfinite(latents).all() and torch.isfinite(plain).all())
    if name == "float32":
        kept.update(inversion=inversion.trajectory[-1], latents=latents, made=made, gradient=plain)
        row |= {"size of ε": float(_epsilon(editor, inversion).std()), "size of the gradient": float(plain.std())}
        return [row]
    grey = np.abs(made.astype(int) - kept["made"].astype(int))
    row |= {
        "x_T off": off(inversion.trajectory[-1], kept["inversion"]),
        "edited latents off": off(latents, kept["latents"]),
        "gradient off": off(plain, kept["gradient"]),
        "gradient off, loss × 1024": off(scaled, kept["gradient"]),
        "zeros in the gradient": float((plain == 0).float().mean()),
        "grey levels off, mean": float(grey.mean()),
        "most": int(grey.max()),
    }
    return [row]


def _epsilon(editor: Any, inversion: Any) -> Any:
    with torch.no_grad():
        return editor.model.predict(inversion.trajectory[-1], 401, inversion.c, 0.5)


def text_precision(weights: Weights) -> list[dict[str, Any]]:
    """The text half in half precision beside float32, which it is always loaded in."""
    from p2pz_ray.editing.text import TextEncoder

    right = weights.text.embed(CAPTIONS).tokens
    rows = []
    for name in ("bfloat16", "float16"):
        encoders = [copy.deepcopy(encoder).to(DTYPES[name]) for encoder in weights.text.encoder]
        text = TextEncoder(weights.text.tokenizers, encoders)
        rows.append(
            {"weights": name, "sentences": len(CAPTIONS), "tokens off": off(text.embed(CAPTIONS).tokens, right)}
        )
    return rows


def isolation(weights: Weights, name: str, steps: int, count: int = 4) -> list[dict[str, Any]]:
    """A batch beside each of its pictures alone, and beside itself again."""
    editor, pictures = weights.editor(name), weights.pictures(count)
    with precision(name):
        _, together, made = run(editor, pictures, steps)
        _, again, _ = run(editor, pictures, steps)
        alone = []
        for i in range(count):
            editor.inversion = replace(editor.inversion, steps=steps)
            inversion = editor.invert(pictures[i : i + 1], [CAPTIONS[i % len(CAPTIONS)]], [i])
            alone.append(editor.edit_latents(inversion, [editor.direction(SOURCE, TARGET)]))
        singles = torch.cat(alone)
        grey = np.abs(editor.model.decode(singles.flatten(0, 1))[0].astype(int) - made.astype(int))
    return [
        {
            "weights": name,
            "batch": count,
            "steps": steps,
            "edited latents off": off(together, singles),
            "bit for bit": bool(torch.equal(together, singles)),
            "grey levels off, mean": float(grey.mean()),
            "most": int(grey.max()),
            "again bit for bit": bool(torch.equal(together, again)),
        }
    ]


def line(machine: Machine, work: Callable[[int], Any]) -> dict[str, float]:
    """Seconds of a step and of all that is done once, by two runs of few steps after one that warms up."""
    work(FEW[0])
    short, long = (machine.timed(lambda n=n: work(n))[0] for n in FEW)
    step = max(long - short, 0.0) / (FEW[1] - FEW[0])
    return {"seconds a step": step, "seconds once": max(short - FEW[0] * step, 0.0)}


def speed(weights: Weights, editor: Any, label: dict[str, Any], B: int, K: int = 1) -> list[dict[str, Any]]:
    """Whole edits of B pictures under K directions, encoding and decoding included."""
    pictures, model = weights.pictures(B), editor.model
    with precision(label["weights"]), weights.machine.watched(model.unet, model.vae, model.text.encoder) as memory:
        cost = line(weights.machine, lambda steps: run(editor, pictures, steps, K))
    return [{**label, "batch": B, "K": K, **cost, **rate(cost, B * K), **memory}]


def rate(cost: dict[str, float], edits: int) -> dict[str, float]:
    """The seconds of 50 steps, extrapolated, and the edits a second that they come to."""
    whole = STEPS * cost["seconds a step"] + cost["seconds once"]
    return {f"seconds, {STEPS} steps": whole, "edits a second": edits / whole}


def diffusers_speed(weights: Weights, name: str) -> list[dict[str, Any]]:
    """diffusers' own pipeline on the same weights, one picture at a time: more would be silently wrong."""
    from diffusers import DDIMInverseScheduler, StableDiffusionPix2PixZeroPipeline
    from PIL import Image

    editor = weights.editor(name)
    direction = editor.direction(SOURCE, TARGET)
    dtype, device = DTYPES[name], weights.machine.name
    pipeline = StableDiffusionPix2PixZeroPipeline(
        vae=editor.model.vae,
        text_encoder=copy.deepcopy(weights.text.encoder[0]).to(dtype),
        tokenizer=weights.tokenizer,
        unet=editor.model.unet,
        scheduler=copy.deepcopy(weights.scheduler),
        feature_extractor=None,
        safety_checker=None,
        inverse_scheduler=DDIMInverseScheduler.from_config(weights.scheduler.config),
        caption_generator=None,
        caption_processor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray(weights.pictures(1)[0])
    delta = direction.embedding[None].to(device, dtype)

    def whole(steps: int) -> Any:
        inverted = pipeline.invert(
            CAPTIONS[0],
            image=picture,
            num_inference_steps=steps,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
        )
        return pipeline(
            CAPTIONS[0],
            source_embeds=torch.zeros_like(delta),
            target_embeds=delta,
            num_inference_steps=steps,
            guidance_scale=5.0,
            negative_prompt=CAPTIONS[0],
            latents=inverted.latents,
            output_type="np",
        ).images

    with weights.machine.watched(pipeline.unet, pipeline.vae, pipeline.text_encoder) as memory:
        cost = line(weights.machine, whole)
    return [{"editor": "diffusers", "weights": name, "batch": 1, "K": 1, **cost, **rate(cost, 1), **memory}]


def passes(weights: Weights, editor: Any, name: str, B: int) -> list[dict[str, Any]]:
    """What a step is made of, in milliseconds: a UNet pass, a guided gradient, the noise's regularization; and the
    autoencoder's two ways."""
    from p2pz_ray.editing.inversion import regularize
    from p2pz_ray.editing.settings import InversionSettings

    machine, model = weights.machine, editor.model
    side = weights.family.pixels // model.factor
    x = torch.randn(B, 4, side, side, device=machine.name)
    pictures, c = weights.pictures(B), model.embed([CAPTIONS[0]] * B)

    def plain() -> Any:
        with torch.no_grad():
            return model.predict(x, 401, c, 0.5)

    def noise(kind: str) -> Callable[[], Any]:
        settings = InversionSettings(regularization=kind)
        return lambda: regularize(x, [torch.Generator().manual_seed(i) for i in range(B)], settings)

    work: dict[str, Callable[[], Any]] = {
        "pass": plain,
        "gradient, with the reference's pass": lambda: gradient(editor, x, x + 0.1),
        "regularization, sampled": noise("sampled"),
        "regularization, full": noise("full"),
        "encode": lambda: model.encode(pictures),
        "decode": lambda: model.decode(x),
    }
    row: dict[str, Any] = {"weights": name, "batch": B}
    for what, do in work.items():
        do()
        row[f"{what}, ms"] = 1000 * min(machine.timed(do)[0] for _ in range(3))
    return [row]


def compiled(weights: Weights, name: str, B: int, whole: bool) -> list[dict[str, Any]]:
    """torch.compile of the UNet, or of one small part that shows whether there is a compiler at all."""
    editor = weights.editor(name)
    model, machine = editor.model, weights.machine
    side = weights.family.pixels // model.factor
    x, c = torch.randn(B, 4, side, side, device=machine.name), model.embed([CAPTIONS[0]] * B)
    if whole:

        def work() -> Any:
            with torch.no_grad():
                return model.predict(x, 401, c, 0.5)

        eager = work()
        before = min(machine.timed(work)[0] for _ in range(3))
        model.compile()
        what = "UNet"
    else:
        part = model.unet.time_embedding
        given = torch.randn(B, part.linear_1.in_features, device=machine.name, dtype=DTYPES[name])
        fast: dict[str, Any] = {"part": part}

        def work() -> Any:
            with torch.no_grad():
                return fast["part"](given)

        eager = work()
        before = min(machine.timed(work)[0] for _ in range(3))
        fast["part"] = torch.compile(part)
        what = "time embedding"
    first, made = machine.timed(work)
    after = min(machine.timed(work)[0] for _ in range(3))
    return [
        {
            "what": what,
            "weights": name,
            "batch": B,
            "eager, ms": 1000 * before,
            "compiled, ms": 1000 * after,
            "first call, seconds": first,
            "off": off(made, eager),
        }
    ]


def student(machine: Machine, size: int, name: str, B: int, tiny: bool) -> list[dict[str, Any]]:
    """The student's generator, forward."""
    from p2pz_ray.student.generator import CoModGenerator

    settings = SimpleNamespace(**(STUDENT | ({"base": 128, "max": 16, "code": 16} if tiny else {})))
    with torch.device(machine.name):
        torch.manual_seed(0)
        generator = CoModGenerator(settings, size).eval().requires_grad_(False)  # type: ignore[arg-type]
        x = torch.rand(B, 3, size, size) * 2 - 1
    with torch.inference_mode(), precision(name):
        right = generator(x)
        generator, x = generator.to(DTYPES[name]), x.to(DTYPES[name])
        with machine.watched(generator) as memory:
            made = generator(x)
            seconds = min(machine.timed(lambda: generator(x))[0] for _ in range(3))
    row = {"size": size, "weights": name, "batch": B, "seconds": seconds, "images a second": B / seconds, **memory}
    return [{**row, "off float32": off(made, right)}]


class NotBuiltError(Exception):
    """A measurement needs weights that there was no time for."""


@dataclass(frozen=True)
class Measurement:
    """What to measure, for which section, and about how many seconds it takes on a recent GPU."""

    section: str
    name: str
    needs: float
    work: Callable[[], list[dict[str, Any]]]


def measurements(machine: Machine, families: dict[str, Family], tiny: bool) -> Iterator[Measurement]:
    """All of them in order. What several share is made once and given up after the last."""
    held: dict[str, Any] = {}

    def build(family: str) -> list[dict[str, Any]]:
        held.clear()
        machine.free()
        seconds, weights = machine.timed(lambda: Weights(families[family], machine))
        held.update(weights=weights, family=family, compared={})
        return [{"family": family, "pixels": families[family].pixels, "seconds": seconds}]

    def weights(family: str) -> Weights:
        if held.get("family") != family:
            raise NotBuiltError
        return held["weights"]

    def editor(family: str, name: str) -> Any:
        """The editor of one precision; the one before is given up."""
        if weights(family) and held.get("precision") != name:
            held.pop("editor", None)
            machine.free()
            held.update(editor=weights(family).editor(name), precision=name)
        return held["editor"]

    def agree(family: str, name: str, steps: int) -> list[dict[str, Any]]:
        if name != "float32" and weights(family) and not held["compared"]:
            raise NotBuiltError
        return agreement(weights(family), held["compared"], name, 2 if tiny else steps, count=2)

    def fast(family: str, name: str, B: int, K: int = 1) -> list[dict[str, Any]]:
        label = {"editor": "ours", "weights": name}
        try:
            return speed(weights(family), editor(family, name), label, B, K)
        except torch.OutOfMemoryError:
            return [{**label, "batch": B, "K": K, "error": "out of memory"}]

    def measure(section: str, name: str, needs: float, work: Any, *given: Any) -> Measurement:
        return Measurement(section, name, needs, lambda: work(*given))

    def speeds(family: str, name: str, sizes: tuple[tuple[int, int, float], ...]) -> Iterator[Measurement]:
        """Of batches and numbers of directions, with the seconds that each needs."""
        for B, K, needs in ((1, 1, 0), (1, 2, 0)) if tiny else sizes:
            yield measure(f"speed, {family}", f"{name}, {B} × {K}", needs, fast, family, name, B, K)

    one = "SD 1.5"
    yield measure("built", one, 0, build, one)
    for name in ("float32", "float16", "bfloat16", "tf32") if machine.gpu else ("float32", "float16", "bfloat16"):
        yield measure(f"agreement, {one}", name, 5, agree, one, name, 4)
    yield measure("text half", one, 2, lambda: text_precision(weights(one)))
    for name in ("float16", "bfloat16", "float32"):
        yield measure(f"isolation, {one}", name, 5, lambda name=name: isolation(weights(one), name, 2))
    yield from speeds(one, "float16", ((1, 1, 4),))
    yield measure(f"speed, {one}", "diffusers", 15, lambda: diffusers_speed(weights(one), "float16"))
    if not tiny:
        yield from speeds(one, "float16", ((4, 1, 3), (8, 1, 4), (16, 1, 5), (32, 1, 9), (64, 1, 16), (4, 4, 5)))
        yield from speeds(one, "bfloat16", ((8, 1, 4), (32, 1, 9)))
        yield from speeds(one, "float32", ((4, 1, 9),))
        yield from speeds(one, "tf32", ((4, 1, 6),))
    for B in (1, 8):
        yield measure(f"parts of a step, {one}", f"float16, {B}", 3, lambda B=B: passes(
            weights(one), editor(one, "float16"), "float16", B))  # fmt: skip
    yield measure("built", "SDXL", 6, build, "SDXL")
    yield from speeds("SDXL", "float16", ((1, 1, 8), (1, 4, 12), (4, 1, 12)))
    yield measure("built", "SD 2.1", 5, build, "SD 2.1")
    yield from speeds("SD 2.1", "float16", ((1, 1, 4), (4, 1, 6), (16, 1, 14)))
    yield measure("compile", "small part", 20, lambda: compiled(weights("SD 2.1"), "float16", 1, whole=False))
    for name in ("float32", "float16", "bfloat16"):
        yield measure("agreement, SD 2.1", name, 8, agree, "SD 2.1", name, 4)
    held.clear()
    machine.free()
    for size in (32,) if tiny else (256, 512):
        for name in ("float32", "bfloat16"):
            for B in (1, 32):
                yield measure("student", f"{size}, {name}, {B}", 2, student, machine, size, name, B, tiny)
    yield measure("built", "SDXL", 20, build, "SDXL")
    for name in ("float32", "float16", "bfloat16"):
        yield measure("agreement, SDXL", name, 10, agree, "SDXL", name, 2)
    yield measure("built", one, 160, build, one)
    yield measure("compile", "UNet", 155, lambda: compiled(weights(one), "float16", 8, whole=True))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="by the clock, from the start on")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--tiny", action="store_true", help="layouts of a few thousand weights, for a CPU")
    given = parser.parse_args(arguments)
    begun = time.monotonic() if arguments is not None else BEGUN

    _quiet()
    machine = Machine("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(given.out, machine.facts(), begun)
    report.write()
    skipped: list[str] = []
    with precision("float32"):
        for each in measurements(machine, TINY if given.tiny else TRUE, given.tiny):
            if given.seconds - report.spent <= each.needs:
                skipped.append(f"{each.section} ({each.name})")
                continue
            try:
                rows = each.work()
            except NotBuiltError:
                skipped.append(f"{each.section} ({each.name})")
                continue
            except Exception as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                rows = [{"error": f"{each.name}: {said}"}]
            machine.free()
            report.add(each.section, rows)
    if skipped:
        report.notes.append(f"not begun within {given.seconds:.0f} s: {', '.join(skipped)}")
    report.notes.append(f"took {report.spent:.0f} s; load at the end {os.getloadavg()[0]:.1f}")
    report.write()
    print((given.out / "accelerator.md").read_text())
    return 0


def _quiet() -> None:
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    raise SystemExit(main())
