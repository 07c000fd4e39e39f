"""What the measurements of scale have in common: a row of the table, a configuration, a process's memory."""

import resource
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2pz_ray.config import TranslateConfig

Row = tuple[str, str, str]
PER_PARTITION = 100
ROUNDS = 3


def config_of(collection: Path, output: Path, **more: Any) -> TranslateConfig:
    settings: dict[str, Any] = {
        "input": {"uri": str(collection), "images_per_partition": PER_PARTITION},
        "edits": {"cat2dog": {"source": "cat", "target": "dog", "count": 8}},
        "output": str(output),
    }
    return TranslateConfig.model_validate(settings | more)


def peak() -> float:
    """The most memory that this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(ratios: Sequence[float]) -> str:
    """The middle of ratios, the least and the most."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"
