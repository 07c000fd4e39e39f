"""The embedded miniature: a world with exact counterfactuals and a small Stable Diffusion trained on it."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""The shipped weights, a folder that `diffusers.StableDiffusionPipeline.from_pretrained` loads as it is."""
CONTROL = Path(__file__).parent / "control"
"""Its ControlNet, a folder that `diffusers.ControlNetModel.from_pretrained` loads as it is."""
