"""PIE-Bench (Ju et al., "PnP Inversion", ICLR 2024): its images as a collection, and its table for a folder of edits.

    python -m p2pz_ray.report.pie collection BENCH OUT          OUT/pie-*.parquet, for p2pz translate
    python -m p2pz_ray.report.pie table BENCH EDITED [--clip … --dino … --lpips …]

BENCH holds mapping_file.json and annotation_images/; EDITED holds edited pictures under the same names as those of
annotation_images/, as the benchmark's own evaluation expects. The row has its columns and units: structure distance
×10³ (pixels 0 … 255), PSNR, LPIPS ×10³, MSE ×10⁴ and SSIM ×10² of the unedited part, CLIP similarity ×10² of the whole
picture and of the edited part. Published rows use LPIPS with SqueezeNet, with which LPIPS of other networks can't be
compared.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from p2pz_ray.collection.schema import collection_schema, table_bytes
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation.metrics.metric import Mask, Metric, Pair
from p2pz_ray.picture.codec import DecodePolicy, decode, encode

SIDE = 512
ROWS = 100  # in a file of the collection
COLUMNS: dict[str, tuple[str, float]] = {
    "structure ×10³": ("structure_distance_255", 1e3),
    "PSNR": ("background_psnr", 1),
    "LPIPS ×10³": ("background_lpips", 1e3),
    "ST-LPIPS ×10³": ("background_stlpips", 1e3),
    "MSE ×10⁴": ("background_mse", 1e4),
    "SSIM ×10²": ("background_ssim", 1e2),
    "CLIP whole": ("clip_target", 1e2),
    "CLIP edited": ("clip_target_object", 1e2),
}
"""Each column of the table: its name, the score it comes from, and a factor."""


@dataclass(frozen=True)
class Entry:
    """One image of the benchmark. image: relative to annotation_images/. kind: the type of edit, 0 … 9."""

    id: str
    image: str
    source: str
    target: str
    kind: str
    mask: Mask


def read_mapping(bench: Path) -> list[Entry]:
    """The benchmark's entries, in its order. Raises ConfigError for an invalid mapping, naming the entry."""
    file = bench / "mapping_file.json"
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"There is no {file}: give the folder that holds PIE-Bench.") from None
    except ValueError as error:
        raise ConfigError(f"{file} is not valid JSON ({error}): fetch it again.") from None
    entries = []
    for id, entry in found.items():
        try:
            before, after = (_plain(entry[key]) for key in ("original_prompt", "editing_prompt"))
            kind, mask = str(entry["editing_type_id"]), decode_mask(entry["mask"])
            entries.append(Entry(str(id), str(entry["image_path"]), before, after, kind, mask))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{file}: entry {id} is not one of PIE-Bench's ({error}): fetch it again.") from None
    return entries


def decode_mask(runs: Sequence[int], side: int = SIDE) -> Mask:
    """The part of a picture that should change, (side, side), from the start and length of each run of pixels in
    reading order.

    A frame of one pixel always belongs to it, as in the benchmark's evaluation. Raises ValueError for an odd number.
    """
    if len(runs) % 2:
        raise ValueError("its mask has a start without a length")
    mask = np.zeros(side * side, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    picture = mask.reshape(side, side)
    picture[[0, -1]] = picture[:, [0, -1]] = True
    return picture


def write_collection(bench: Path, out: Path) -> int:
    """Write the benchmark as a collection: id, image, caption, mask, target_text, kind. Returns how many."""
    entries = read_mapping(bench)
    schema = collection_schema(mask=True)
    texts = [pa.field("target_text", pa.string()), pa.field("kind", pa.string())]
    info = json.loads(schema.metadata[b"huggingface"])
    info["info"]["features"] |= {field.name: {"dtype": "string", "_type": "Value"} for field in texts}
    schema = pa.schema([*schema, *texts], {"huggingface": json.dumps(info)})
    out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(entries), ROWS)):
        rows = [
            {
                "id": entry.id,
                "image": {"bytes": _picture(bench / "annotation_images" / entry.image), "path": entry.image},
                "caption": entry.source,
                "mask": {"bytes": encode(np.repeat(entry.mask[..., None], 3, 2).astype(np.uint8) * 255), "path": None},
                "target_text": entry.target,
                "kind": entry.kind,
            }
            for entry in entries[start : start + ROWS]
        ]
        (out / f"pie-{number:03}.parquet").write_bytes(table_bytes(pa.Table.from_pylist(rows, schema)))
    return len(entries)


def pairs(bench: Path, edited: Path) -> Iterator[tuple[Entry, Pair]]:
    """Each entry and its pair of pictures at 512 px. Raises ConfigError if an edited picture is missing."""
    policy = DecodePolicy((SIDE, SIDE), "stretch")
    for entry in read_mapping(bench):
        source = decode(_picture(bench / "annotation_images" / entry.image), policy)
        after = decode(_picture(edited / entry.image), policy)
        yield entry, Pair(entry.id, entry.kind, source, after, None, (entry.source, entry.target), entry.mask)


def table(bench: Path, edited: Path, metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Type of edit, or "all" → the table's columns, as far as the metrics give them."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for entry, pair in pairs(bench, edited):
        for metric in metrics:
            for score, [value] in metric([pair]).items():
                if value is not None:
                    for kind in ("all", entry.kind):
                        found[kind, score].append(value)
    kinds = sorted({kind for kind, _ in found}, key=lambda kind: (kind != "all", kind))
    return {
        kind: {
            name: scale * sum(found[kind, score]) / len(found[kind, score])
            for name, (score, scale) in COLUMNS.items()
            if found.get((kind, score))
        }
        for kind in kinds
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.report.pie", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, second in (("collection", "out"), ("table", "edited")):
        adding = verbs.add_parser(verb)
        adding.add_argument("bench", type=Path)
        adding.add_argument(second, type=Path)
    adding.add_argument("--clip", help="a CLIP; published rows use openai/clip-vit-large-patch14")
    adding.add_argument("--dino", help="a ViT; published rows use facebook/dino-vitb8")
    adding.add_argument("--lpips", help="lpips-alex, lpips-vgg or stlpips-alex")
    given = parser.parse_args(arguments)
    try:
        if given.verb == "collection":
            print(f"Wrote {write_collection(given.bench, given.out):,} images: {given.out}")
            return 0
        found = table(given.bench, given.edited, _metrics(given))
    except P2PZError as error:
        print(error, file=sys.stderr)
        return 2
    names = [name for name in COLUMNS if name in found["all"]]
    print(f"{'type':<6}" + "".join(f"{name:>16}" for name in names))
    for kind, row in found.items():
        print(f"{kind:<6}" + "".join(f"{row[name]:>16.2f}" for name in names))
    return 0


def _metrics(given: Any) -> list[Metric]:
    from p2pz_ray.evaluation.metrics.pixels import PixelDifference

    made: list[Metric] = [PixelDifference()]
    if given.clip:
        from p2pz_ray.evaluation.metrics.clip import ClipScore

        made.append(ClipScore(given.clip))
    if given.dino:
        from p2pz_ray.evaluation.metrics.structure import dino

        made.append(dino(given.dino, scale="0-255"))
    if given.lpips:
        from p2pz_ray.evaluation.metrics.background import BackgroundDistance

        made.append(BackgroundDistance(given.lpips))
    return made


def _plain(prompt: str) -> str:
    """A prompt without the brackets around its changed words."""
    return prompt.replace("[", "").replace("]", "")


def _picture(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} can't be read ({error.strerror}): every entry needs its picture.") from None


if __name__ == "__main__":
    sys.exit(main())
