"""A student: a folder with config.json, model.safetensors and a card, and the class that loads and calls it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from p2pz_ray.config.generator import GeneratorConfig
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.storage.store import Store
from p2pz_ray.student.generator import CoModGenerator
from p2pz_ray.student.mobile import MobileGenerator
from p2pz_ray.student.onnx import OnnxGenerator
from p2pz_ray.student.repertoire import Parts, Repertoire

FORMAT = "p2pz_ray student 2"
SHIPPED = Path(__file__).parents[1] / "mini" / "student"
ONNX_FILE = "model.onnx"
_CARD = """---
library_name: p2pz_ray
pipeline_tag: image-to-image
license: other
---
# {edits}: a student of pix2pix-zero

One forward pass turns a picture of {size} × {size} px into its edit. Distilled from the pairs of a diffusion teacher
into a {architecture} generator of {parameters:,} parameters, as section 4.5 of arXiv 2302.03027 does.

    from p2pz_ray import Student
    student = Student.from_pretrained("FOLDER")
{calls}

The same picture always gives the same answer, whatever else is in its batch. Its training, and its scores on held-out
pairs, or on its training pairs where none were held out:

```json
{facts}
```

It works on pictures like those of its training; on others its answers may be anything. Its licence follows those of
the pictures and of the teacher's weights.
"""


def build_generator(config: GeneratorConfig, size: int, directions: int = 0) -> Any:
    """The architecture with fresh weights. directions: the width of an edit's direction, 0 for a single edit."""
    if config.architecture == "mobile":
        return MobileGenerator(config, size)
    return CoModGenerator(config, size, directions)


def save_student(
    store: Store, folder: str, generator: Any, repertoire: Repertoire, facts: dict[str, Any], half: bool = False
) -> None:
    """Write a student's folder; `facts` are plain values for its card. half: its weights in half precision."""
    state = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
    weights = {name: (value.half() if half else value).contiguous() for name, value in state.items()}
    config = {
        "format": FORMAT,
        "edits": repertoire.to_json(),
        "size": generator.size,
        "generator": generator.config.model_dump(),
    }
    calls = ["    edited = student(images)      # (B, SIZE, SIZE, 3) uint8 → the same"]
    if repertoire.width:
        first, *others = list(repertoire.skills)[:2]
        calls = [
            f'    edited = student(images, edit="{first}", strength=0.5)      # (B, SIZE, SIZE, 3) uint8 → the same'
        ]
        calls += [f'    edited = student(images, edit={{"{first}": 1.0, "{other}": 0.5}})' for other in others]
    card = _CARD.format(
        edits=repertoire if repertoire.skills else "An edit",
        calls="\n".join(calls).replace("SIZE", str(generator.size)),
        size=generator.size,
        architecture=generator.config.architecture,
        parameters=sum(p.numel() for p in generator.parameters()),
        facts=json.dumps(facts, indent=1),
    )
    store.write(f"{folder}/model.safetensors", to_bytes(weights, {"format": "pt"}))
    store.write(f"{folder}/README.md", card.encode())
    store.write(f"{folder}/config.json", (json.dumps(config, indent=1) + "\n").encode())


class Student:
    """A generator that edits pictures of its size in one pass; the rows of a batch don't affect each other.

    size: the side in pixels. repertoire: the edits that it knows. digest: sha256 of the files that it was loaded from,
    None where it was not loaded.
    """

    def __init__(
        self, generator: Any, repertoire: Repertoire | None = None, device: str = "cpu", digest: str | None = None
    ) -> None:
        self.generator = generator
        self.size: int = generator.size
        self.repertoire = repertoire or Repertoire()
        self.device, self.digest = device, digest

    @classmethod
    def from_pretrained(
        cls,
        uri: str,
        device: str = "auto",
        storage_options: dict[str, Any] | None = None,
        runtime: Literal["torch", "onnx"] = "torch",
    ) -> "Student":
        """Load a student's folder, at a path or any fsspec URI, or "mini", the one in the package. Raises ConfigError
        where it can't be loaded.

        runtime: "onnx" runs the model that `export=[onnx]` put beside it with onnxruntime, on the CPU.
        """
        if uri == "mini":
            if not (SHIPPED / "config.json").exists():
                raise ConfigError("This package has no student of its own: give OUTPUT/student of p2pz distill.")
            uri = str(SHIPPED)
        store, onnx = Store(str(uri), storage_options), runtime == "onnx"
        if not store.exists("config.json"):
            raise ConfigError(f"{uri} isn't a student: it has no config.json, so give OUTPUT/student of p2pz distill.")
        if onnx and not store.exists(ONNX_FILE):
            raise ConfigError(f"{uri} has no {ONNX_FILE}: run p2pz distill again with export=[onnx].")
        try:
            config_bytes, weights = store.read("config.json"), store.read(ONNX_FILE if onnx else "model.safetensors")
            config = json.loads(config_bytes)
            if config.get("format") != FORMAT:
                raise ValueError(f"its format is {config.get('format')!r}, not {FORMAT!r}")
            size, repertoire = int(config["size"]), Repertoire.from_json(config["edits"])
            if onnx:
                return cls(OnnxGenerator(weights, size), repertoire, "cpu", _digest(config_bytes, weights))
            generator = build_generator(GeneratorConfig.model_validate(config["generator"]), size, repertoire.width)
            generator.load_state_dict({name: value.float() for name, value in from_bytes(weights).items()})
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
        # On a CPU, convolutions of this layout take little more than half the time.
        generator = generator.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
        return cls(generator, repertoire, device, _digest(config_bytes, weights))

    @torch.inference_mode()
    def __call__(
        self,
        images: NDArray[np.uint8] | Sequence[Image.Image],
        batch_size: int = 32,
        *,
        edit: str | Parts | Sequence[str | Parts] | None = None,
        strength: float | Sequence[float] = 1.0,
    ) -> NDArray[np.uint8]:
        """(B, H, W, 3) uint8, or B pictures, of the student's size → the edited (B, H, W, 3) uint8.

        edit: a name; or for several at once a mapping of names to strengths, {"cat2dog": 1.0, "cat2glasses": 0.5}; or a
        list with one of these per picture. None is the student's only edit. strength: from 0, the source itself,
        to the largest that the edit was trained for; one for all pictures or a list with one per picture. It multiplies
        the strengths of a mapping.

        Raises ConfigError for pictures of another size, and for an edit or a strength that the student doesn't know.
        """
        if not isinstance(images, np.ndarray):
            images = (
                np.stack([np.asarray(image.convert("RGB")) for image in images]) if len(images) else _no_images(self)
            )
        if images.dtype != np.uint8 or images.shape[1:] != (self.size, self.size, 3):
            raise ConfigError(
                f"The images are {images.shape} {images.dtype}, but this student takes "
                f"(B, {self.size}, {self.size}, 3) uint8: resize them first."
            )
        directions = self._directions(len(images), edit, strength)
        edited = [np.zeros((0, self.size, self.size, 3), np.uint8)]
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            x = to_tensor(images[part]).to(self.device)
            edited.append(to_pixels(self.generator(x, None if directions is None else directions[part])))
        return np.concatenate(edited)

    def _directions(
        self, count: int, edit: str | Parts | Sequence[str | Parts] | None, strength: float | Sequence[float]
    ) -> Tensor | None:
        """(B, D), one row per picture; None for a student of one edit."""
        edits = [edit] if edit is None or isinstance(edit, str | Mapping) else list(edit)
        strengths = list(strength) if isinstance(strength, Iterable) else [strength]
        for name, entries in (("edit", len(edits)), ("strength", len(strengths))):
            if entries not in (1, count):
                raise ConfigError(f"{name} has {entries} entries for {count} images: give one, or one per image.")
        # One row where all pictures get the same edit at the same strength.
        rows = max(len(edits), len(strengths)) if edits and strengths else 0
        sums = [
            self.repertoire.direction(self.repertoire.parts(edits[row % len(edits)], strengths[row % len(strengths)]))
            for row in range(rows)
        ]
        if not self.repertoire.width:
            return None
        directions = torch.tensor(sums, dtype=torch.float32).view(-1, self.repertoire.width)
        return directions.expand(count, -1).contiguous().to(self.device)


def _digest(*files: bytes) -> str:
    return hashlib.sha256(b"".join(files)).hexdigest()


def _no_images(student: Student) -> NDArray[np.uint8]:
    return np.zeros((0, student.size, student.size, 3), np.uint8)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) in -1 … 1."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in -1 … 1, clipped → (B, H, W, 3) uint8."""
    levels = ((x.detach().float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
