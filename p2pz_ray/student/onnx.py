"""A student's ONNX model under onnxruntime: the same answers, faster than PyTorch on a CPU."""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from p2pz_ray.errors import ConfigError, first_line


class OnnxGenerator:
    """(B, 3, size, size) in -1 … 1, and directions (B, D) where the student has several edits → the same, clipped.

    data: the bytes that an export wrote. It uses as many threads as PyTorch. Raises ConfigError where onnxruntime is
    missing or can't read the data."""

    def __init__(self, data: bytes, size: int) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise ConfigError("A student's ONNX model needs onnxruntime: pip install 'p2pz_ray[export]'.")
        import onnxruntime  # type: ignore[import-untyped, import-not-found, unused-ignore]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin between two batches would take cores from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds have no common base
            raise ConfigError(f"The ONNX model can't be loaded ({first_line(error)}): export it again.") from None
        self.size = size

    def __call__(self, x: Tensor, direction: Tensor | None = None) -> Tensor:
        inputs = {"images": x.cpu().numpy()}
        if direction is not None:
            inputs["direction"] = direction.cpu().numpy()
        [edited] = self._session.run(None, inputs)
        return torch.from_numpy(edited)
