"""The machine being measured: its device, clock, memory and precisions."""

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        """The wall-clock seconds that `work` takes, and what it returns."""
        self.settle()
        started = time.perf_counter()
        result = work()
        self.settle()
        return time.perf_counter() - started, result

    @contextmanager
    def watched(self, *parts: torch.nn.Module) -> Iterator[dict[str, float]]:
        """Measures GPU memory within the block, in GiB: the weights of `parts`, and the peak above what was allocated
        before it. The dictionary is filled at the block's end, and stays empty without a GPU."""
        memory: dict[str, float] = {}
        if self.gpu:
            self.free()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        try:
            yield memory
        finally:
            if self.gpu:
                self.settle()
                weights = sum(p.nbytes for part in parts for p in part.parameters())
                memory["weights, GiB"] = weights / 2**30
                memory["peak above that, GiB"] = (torch.cuda.max_memory_allocated() - before) / 2**30

    @property
    def total(self) -> float:
        """The device's memory in GiB."""
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


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Within the block, float32 products are rounded to TF32 if the name is "tf32", and otherwise not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
