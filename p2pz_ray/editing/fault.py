"""Faults of latents: not finite, or exploded."""

from torch import Tensor

LARGEST = 30.0
"""Latents with a larger root mean square have exploded; for pictures and for noise it is about 1."""


def faults(latents: Tensor) -> list[str | None]:
    """For each row (rows, …) what is wrong with it, or None."""
    sizes = latents.detach().float().flatten(1).square().mean(1).sqrt().tolist()
    return [_fault(size) for size in sizes]


def _fault(size: float) -> str | None:
    # The mean of squares is not finite where any value is not, or is so large that its square is not.
    if size != size or size == float("inf"):
        return "not finite"
    return f"of size {size:.2g}, so they exploded" if size > LARGEST else None


def of_trajectory(trajectory: Tensor) -> list[str | None]:
    """For each image of a trajectory (N + 1, B, 4, h, w) what is wrong with it at any step, or None."""
    largest = trajectory.flatten(2).abs().amax(2)  # NaN where any value is
    steps = [faults(level) for level in trajectory] if not bool((largest < LARGEST).all()) else []
    return [next((f for f in each if f), None) for each in zip(*steps, strict=True)] or [None] * trajectory.shape[1]


def remedy(dtype: str, otherwise: str) -> str:
    """What to do about a fault: if in half precision, change that first."""
    if dtype == "float32":
        return f"in float32: {otherwise}"
    return f"in {dtype}: set dtype to {'bfloat16 or ' if dtype == 'float16' else ''}float32, or {otherwise}"
