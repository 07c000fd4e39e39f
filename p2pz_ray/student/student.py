"""A student: a folder with config.json, model.safetensors and a card, and what loads and calls it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from p2pz_ray.collection.store import Store
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.student.config import GeneratorConfig
from p2pz_ray.student.generator import CoModGenerator
from p2pz_ray.student.mobile import MobileGenerator
from p2pz_ray.student.onnx import OnnxGenerator

FORMAT = "p2pz_ray student 1"
ONNX_FILE = "model.onnx"
_CARD = """---
library_name: p2pz_ray
pipeline_tag: image-to-image
license: other
---
# {edit}: a student of pix2pix-zero

One forward pass turns a picture of {size} × {size} px into its edit. Distilled from the pairs of a diffusion teacher
into a {architecture} generator of {parameters:,} parameters, as section 4.5 of arXiv 2302.03027 does.

    from p2pz_ray import Student
    edited = Student.from_pretrained("FOLDER")(images)      # (B, {size}, {size}, 3) uint8 → the same

The same picture always gives the same answer, whatever else is in its batch. What it was trained on and how well it
does on pairs that were held out, or on its own where none were:

```json
{facts}
```

It knows the pictures of its training alone; on others it may answer anything. Its licence follows those of the
pictures and of the teacher's weights.
"""


def build_generator(config: GeneratorConfig, size: int) -> Any:
    """The architecture with fresh weights."""
    return (MobileGenerator if config.architecture == "mobile" else CoModGenerator)(config, size)


def save_student(store: Store, folder: str, generator: Any, edit: str | None, facts: dict[str, Any]) -> None:
    """Write a student's folder; `facts` are plain values for its card."""
    weights = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    config = {"format": FORMAT, "edit": edit, "size": generator.size, "generator": generator.config.model_dump()}
    card = _CARD.format(
        edit=edit or "An edit",
        size=generator.size,
        architecture=generator.config.architecture,
        parameters=sum(p.numel() for p in generator.parameters()),
        facts=json.dumps(facts, indent=1),
    )
    store.write(f"{folder}/model.safetensors", to_bytes(weights, {"format": "pt"}))
    store.write(f"{folder}/README.md", card.encode())
    store.write(f"{folder}/config.json", (json.dumps(config, indent=1) + "\n").encode())


class Student:
    """A generator that answers pictures of its size in one pass, each as if alone.

    size: the side in pixels. edit: what it does, by the name it had in the pairs, None where they had none. digest:
    sha256 of the files that it was loaded from, None where there were none.
    """

    def __init__(self, generator: Any, edit: str | None = None, device: str = "cpu", digest: str | None = None) -> None:
        self.generator = generator
        self.size: int = generator.size
        self.edit, self.device, self.digest = edit, device, digest

    @classmethod
    def from_pretrained(
        cls,
        uri: str,
        device: str = "auto",
        storage_options: dict[str, Any] | None = None,
        runtime: Literal["torch", "onnx"] = "torch",
    ) -> "Student":
        """Load a student's folder, at a path or any fsspec URI. Raises ConfigError for what is none.

        runtime: "onnx" takes the model that `export=[onnx]` put beside it, and onnxruntime, on the CPU.
        """
        store, onnx = Store(str(uri), storage_options), runtime == "onnx"
        if not store.exists("config.json"):
            raise ConfigError(f"{uri} is no student: it has no config.json, so give OUTPUT/student of p2pz distill.")
        if onnx and not store.exists(ONNX_FILE):
            raise ConfigError(f"{uri} has no {ONNX_FILE}: run p2pz distill again with export=[onnx].")
        try:
            described, weights = store.read("config.json"), store.read(ONNX_FILE if onnx else "model.safetensors")
            config = json.loads(described)
            if config.get("format") != FORMAT:
                raise ValueError(f"its format is {config.get('format')!r}, not {FORMAT!r}")
            size = int(config["size"])
            if onnx:
                return cls(OnnxGenerator(weights, size), config.get("edit"), "cpu", _digest(described, weights))
            generator = build_generator(GeneratorConfig.model_validate(config["generator"]), size)
            generator.load_state_dict(from_bytes(weights))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise ConfigError(f"{uri} is not a student that can be loaded ({first_line(error)}).") from None
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = generator.to(device).requires_grad_(False).eval()
        return cls(generator, config.get("edit"), device, _digest(described, weights))

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8] | Sequence[Image.Image], batch_size: int = 32) -> NDArray[np.uint8]:
        """(B, H, W, 3) uint8, or B pictures, of the student's size → the edited (B, H, W, 3) uint8."""
        if not isinstance(images, np.ndarray):
            images = np.stack([np.asarray(image.convert("RGB")) for image in images]) if len(images) else _nothing(self)
        if images.dtype != np.uint8 or images.shape[1:] != (self.size, self.size, 3):
            raise ConfigError(
                f"The images are {images.shape} {images.dtype}, but this student takes "
                f"(B, {self.size}, {self.size}, 3) uint8: resize them first."
            )
        made = [np.zeros((0, self.size, self.size, 3), np.uint8)]
        for start in range(0, len(images), batch_size):
            x = to_tensor(images[start : start + batch_size]).to(self.device)
            made.append(to_pixels(self.generator(x)))
        return np.concatenate(made)


def _digest(*files: bytes) -> str:
    return hashlib.sha256(b"".join(files)).hexdigest()


def _nothing(student: Student) -> NDArray[np.uint8]:
    return np.zeros((0, student.size, student.size, 3), np.uint8)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) in -1 … 1."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in -1 … 1, clipped → (B, H, W, 3) uint8."""
    levels = ((x.detach().float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
