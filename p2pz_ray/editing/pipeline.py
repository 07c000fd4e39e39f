"""diffusers' own image-to-image pipelines, which edit a picture by a prompt.

Errors in a pipeline's name, arguments or checkpoint are found without loading any weights.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from p2pz_ray.editing.checkpoint.kind import read_json
from p2pz_ray.editing.checkpoint.weights import variant_in
from p2pz_ray.editing.fault import remedy
from p2pz_ray.editing.text import UNLOADABLE
from p2pz_ray.errors import ConfigError, ImageError, first_line

GIVEN = ("self", "image", "prompt", "generator", "output_type", "return_dict", "num_images_per_prompt", "kwargs")
"""Arguments that `Pipeline.edit` sets itself, or that can't be set."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a checkpoint that aren't loaded if the pipeline doesn't need them."""


def pipeline_kind(name: str) -> type[Any]:
    """The class of this name. Raises ConfigError if diffusers has no such image-to-image pipeline."""
    kind = getattr(diffusers, name, None) if name.endswith("Pipeline") else None
    if not inspect.isclass(kind):
        raise ConfigError(
            f"engine.pipeline is {name}, but diffusers {diffusers.__version__} has no such pipeline: name one of its "
            "image-to-image classes, such as StableDiffusionImg2ImgPipeline"
        )
    if not issubclass(kind, DiffusionPipeline):  # a placeholder for a class whose libraries are missing
        raise ConfigError(
            f"engine.pipeline is {name}, which needs {' and '.join(getattr(kind, '_backends', ['more']))}: install that"
        )
    if not {"image", "prompt"} <= _parameters(kind).keys():
        raise ConfigError(f"engine.pipeline is {name}, which isn't told of a picture and a prompt: name another")
    return kind


def check_arguments(kind: type[Any], arguments: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that the pipeline doesn't have, or of the wrong type."""
    known = {name: each for name, each in _parameters(kind).items() if name not in GIVEN and "callback" not in name}
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(
                f"engine.arguments has {name}, which {kind.__name__} isn't to be told; it takes {', '.join(known)}"
            )
        wanted = known[name].annotation
        if wanted is inspect.Parameter.empty or isinstance(wanted, str):
            continue
        try:
            TypeAdapter(wanted, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise ConfigError(f"engine.arguments.{name} is {value!r}, but {kind.__name__} says: {said}") from None
        except PydanticSchemaGenerationError:  # a type that can't be checked
            continue


def check_folder(kind: type[Any], folder: Path) -> None:
    """Raise ConfigError for a checkpoint that lacks a part of the pipeline, or has one with code of its own."""
    index = read_json(folder / "model_index.json")
    parts = {part: made for part, made in index.items() if isinstance(made, list) and made and made[0]}
    needed, _ = kind._get_signature_keys(kind)
    missing = sorted(set(needed) - set(kind._optional_components) - parts.keys())
    if missing:
        raise ConfigError(
            f"model {folder} is of {index.get('_class_name', 'another pipeline')} and has no {', '.join(missing)}, "
            f"which {kind.__name__} needs: give a checkpoint of that pipeline"
        )
    for part in needed:
        library = parts.get(part, ["diffusers"])[0]
        if library not in ("diffusers", "transformers") and not hasattr(diffusers.pipelines, library):
            raise ConfigError(f"model {folder} has a {part} with code of its own ({library}), which is never run")
    channels = _channels(kind)
    found = read_json(folder / "unet" / "config.json").get("in_channels", 4) if "unet" in needed else None
    if found is not None and channels is not None and found != channels:
        raise ConfigError(
            f"model {folder} has a UNet of {found} channels, but {kind.__name__} works with one of {channels}: give "
            "a checkpoint of that pipeline"
        )


class Pipeline:
    """A pipeline on its device, with its arguments. Each picture is edited in a call of its own, so that none depends
    on another."""

    def __init__(self, pipeline: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self.pipeline, self.arguments = pipeline, dict(arguments or {})
        self.pipeline.set_progress_bar_config(disable=True)
        self._known = _parameters(type(pipeline)).keys()

    @classmethod
    def load(
        cls,
        kind: type[Any],
        folder: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        arguments: Mapping[str, Any] | None = None,
    ) -> "Pipeline":
        """From safetensors alone, and without running code of the checkpoint's. Raises ConfigError."""
        needed, options = kind._get_signature_keys(kind)
        spared: dict[str, Any] = {part: None for part in LEFT_OUT if part in kind._optional_components}
        if "requires_safety_checker" in options:
            spared["requires_safety_checker"] = False
        half = dtype != torch.float32
        weighted = [folder / part for part in needed if list((folder / part).glob("*.safetensors"))]
        halves = [v for part in weighted if part.name not in spared and (v := variant_in(part, half)) is not None]
        try:
            pipeline = kind.from_pretrained(
                folder,
                dtype=dtype,
                variant=halves[0] if halves else None,
                use_safetensors=True,
                trust_remote_code=False,
                low_cpu_mem_usage=False,
                **spared,
            )
        except UNLOADABLE as error:
            raise ConfigError(f"model {folder} can't be loaded as {kind.__name__}: {first_line(error)}") from error
        return cls(pipeline.to(device), arguments)

    def edit(self, pixels: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 → what the pipeline makes of it, resized to H×W where it has sizes of its own.

        Raises ImageError where that isn't finite, and what the pipeline raises.
        """
        height, width = pixels.shape[:2]
        sizes = {"height": height, "width": width, "max_area": height * width}
        made = self.pipeline(
            image=Image.fromarray(pixels),
            prompt=prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            **{name: size for name, size in sizes.items() if name in self._known} | self.arguments,
        ).images[0]
        if not np.isfinite(made).all():
            dtype = str(self.pipeline.dtype).removeprefix("torch.")
            raise ImageError(f"Its edited picture is not finite, {remedy(dtype, 'try other engine.arguments')}.")
        edited = (made * 255).round().clip(0, 255).astype(np.uint8)
        if edited.shape == pixels.shape:
            return edited
        return np.asarray(Image.fromarray(edited).resize((width, height), Image.Resampling.LANCZOS))


def _parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind.__call__).parameters)


def _channels(kind: type[Any]) -> int | None:
    """Input channels of the pipeline's UNet, if known."""
    if "InstructPix2Pix" in kind.__name__:
        return 8
    return 4 if kind.__name__.endswith("Img2ImgPipeline") else None
