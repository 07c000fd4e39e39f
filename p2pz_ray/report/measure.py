"""The scores in plain words: the name of each, the question that it answers, and which way is better."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Question = Literal["target", "structure", "background", "truth", "other"]
QUESTIONS: dict[Question, str] = {
    "target": "Did it become the target?",
    "structure": "Is the structure kept?",
    "background": "Is the background kept?",
    "truth": "How near is it to the truth?",
    "other": "Other scores",
}


@dataclass(frozen=True)
class Measure:
    """A score. better: whether more or less is better; None for neither, as for the distance to the source, which is
    not zero for a perfect edit either."""

    name: str
    question: Question
    better: Literal["more", "less"] | None


_KNOWN = {
    "judge_target": Measure("The judge sees the target", "target", "more"),
    "efficientnet_lite0_closer": Measure("EfficientNet-lite0 is nearer to the target", "target", "more"),
    "clip_accuracy": Measure("CLIP is nearer to the target's words", "target", "more"),
    "efficientnet_lite0_target": Measure("EfficientNet-lite0's first class is the target's", "target", "more"),
    "clip_gain": Measure("CLIP similarity gained to the target's words", "target", "more"),
    "clip_target": Measure("CLIP similarity to the target's words", "target", "more"),
    "clip_target_object": Measure("CLIP similarity of the object to the target's words", "target", "more"),
    "clip_source": Measure("CLIP similarity to the source's words", "target", "less"),
    "judge_source": Measure("The judge still sees the source", "target", "less"),
    "efficientnet_lite0_source": Measure("EfficientNet-lite0's first class is still the source's", "target", "less"),
    "structure_distance": Measure("Structure distance, DINO", "structure", "less"),
    "structure_judge": Measure("Structure distance, judge", "structure", "less"),
    "structure_efficientnet_lite0": Measure("Structure distance, EfficientNet-lite0", "structure", "less"),
    "mask_overlap": Measure("Overlap of the two objects", "structure", "more"),
    "background_lpips": Measure("Background LPIPS", "background", "less"),
    "background_stlpips": Measure("Background ST-LPIPS", "background", "less"),
    "background_psnr": Measure("Background PSNR, dB", "background", "more"),
    "background_ssim": Measure("Background SSIM", "background", "more"),
    "background_mse": Measure("Background squared error", "background", "less"),
    "truth_psnr": Measure("PSNR to the truth, dB", "truth", "more"),
    "truth_mse": Measure("Squared error to the truth", "truth", "less"),
    "truth_background_mse": Measure("Squared error to the truth, background", "truth", "less"),
    "truth_mask_iou": Measure("Overlap of the object with the truth's", "truth", "more"),
    "truth_copy_mse": Measure("Squared error of the source itself to the truth", "truth", None),
    "psnr": Measure("PSNR to the source, dB", "other", None),
    "ssim": Measure("SSIM to the source", "other", None),
    "mse": Measure("Squared error to the source", "other", None),
}
"""By the score's column; the most informative score of each question comes first."""


def measure(column: str) -> Measure:
    """The measure of a column; an unknown one is shown under its column's name."""
    return _KNOWN.get(column, Measure(column, "other", None))


def told_apart(columns: Iterable[str]) -> dict[Question, list[str]]:
    """Question → its columns, the most informative first; questions without columns are left out."""
    order = {column: place for place, column in enumerate(_KNOWN)}
    ranked = sorted(columns, key=lambda column: order.get(column, len(order)))
    groups = {question: [c for c in ranked if measure(c).question == question] for question in QUESTIONS}
    return {question: found for question, found in groups.items() if found}
