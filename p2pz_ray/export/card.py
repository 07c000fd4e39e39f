"""The card of an exported data set: its contents, how it was made, and its limits."""

from collections.abc import Mapping

from p2pz_ray.export.forms import Format
from p2pz_ray.version import __version__

_FILES: dict[Format, str] = {
    "webdataset": "{side}-*.tar",
    "imagefolder": "{side}/**",
    "instructpix2pix": "data/{side}-*.parquet",
    "parquet": "data/{side}-*.parquet",
}
_COLUMNS: dict[Format, tuple[tuple[str, str], ...]] = {
    "webdataset": (
        ("`source.png`, `edited.png`", "before and after; `.jpg` or `.webp` if the run's format is that"),
        ("`txt`", "the prompt"),
        ("`json`", "its id, edit, caption and scores"),
    ),
    "imagefolder": (
        ("`source`, `edited`", "before and after"),
        ("`prompt`", "an instruction, or what the edited picture shows"),
        ("`id`, `edit`, `caption`", "which source picture, which edit, what the source shows; then the scores"),
    ),
    "instructpix2pix": (
        ("`id`, `edit`", "which source picture, which edit"),
        ("`input_image`", "before"),
        ("`edit_prompt`", "the instruction"),
        ("`edited_image`", "after"),
    ),
    "parquet": (
        ("`id`, `edit`", "which source picture, which edit"),
        ("`source_image`, `edited_image`", "before and after"),
        (
            "`prompt`, `caption`",
            "an instruction or what the edited picture shows, what the source shows; then the scores",
        ),
    ),
    "img2img-turbo": (
        ("`*_A`, `*_B`", "folders: before and after, under one name"),
        ("`*_prompts.json`", "each pair's prompt"),
    ),
}


def card(format: Format, counts: Mapping[str, int], summary: str, marked: bool) -> str:
    """The README.md of an export. counts: pairs per side; marked: whether the edited pictures' XMP says so."""
    sides = [side for side in ("train", "test") if counts.get(side)]
    head = "---\ntask_categories:\n- image-to-image\n"
    if format in _FILES:
        files = "".join(f"  - split: {side}\n    path: {_FILES[format].format(side=side)}\n" for side in sides)
        head += f"configs:\n- config_name: default\n  data_files:\n{files}"
    rows = "\n".join(f"| {name} | {meaning} |" for name, meaning in _COLUMNS[format])
    marks = (
        " Each edited picture says so in its XMP (IPTC's DigitalSourceType: compositeWithTrainedAlgorithmicMedia)."
        if marked
        else ""
    )
    return f"""{head}---

# Pairs of pictures before and after an edit

{summary}

Made by pix2pix-zero (p2pz_ray {__version__}), so the edited pictures are a diffusion model's, with its faults; the
model's licence and that of the source pictures hold for them.{marks} {counts.get("train", 0):,} pairs to train on and
{counts.get("test", 0):,} to test with, split by source picture.

| | |
|---|---|
{rows}
"""
