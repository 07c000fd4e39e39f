"""Pairs as other projects' trainers read them.

    instructpix2pix    a Hugging Face dataset folder, OUT/data/{train,test}-*.parquet with input_image, edit_prompt and
                       edited_image, which diffusers' train_instruct_pix2pix.py takes by default, and a card
    img2img-turbo      OUT/{train,test}_{A,B}/ID.png and {train,test}_prompts.json, as its paired training reads them

Which half a pair goes to depends on its id alone, so that all edits of one image stand on one side.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from p2pz_ray.collection.schema import IMAGE, table_bytes
from p2pz_ray.collection.store import Store

Format = Literal["instructpix2pix", "img2img-turbo"]
SHARD = 1000  # pairs a file
_TYPES = {"input_image": "Image", "edited_image": "Image"}


@dataclass(frozen=True)
class Kept:
    """A pair to export. prompt: what is to be done, or what the edited picture shows; source, edited: encoded."""

    id: str
    edit: str
    prompt: str
    source: bytes
    edited: bytes


def half(id: str, test_share: float) -> Literal["train", "test"]:
    """Where an image's pairs go."""
    drawn = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "test" if drawn < test_share else "train"


def export(pairs: Iterable[Kept], store: Store, format: Format, test_share: float, about: str) -> dict[str, int]:
    """Write the pairs; returns how many went to train and to test. about: a sentence for the card."""
    counts: Counter[str] = Counter()
    if format == "instructpix2pix":
        waiting: dict[str, list[Kept]] = {"train": [], "test": []}
        for pair in pairs:
            side = half(pair.id, test_share)
            waiting[side].append(pair)
            if len(waiting[side]) == SHARD:
                _write_shard(store, side, counts[side] // SHARD, waiting[side])
                counts[side] += SHARD
                waiting[side] = []
        for part, rest in waiting.items():
            if rest:
                _write_shard(store, part, counts[part] // SHARD, rest)
                counts[part] += len(rest)
        store.write("README.md", _card(counts, about).encode())
        return dict(counts)
    prompts: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    for pair in pairs:
        side, name = half(pair.id, test_share), _file_name(pair)
        store.write(f"{side}_A/{name}", pair.source)
        store.write(f"{side}_B/{name}", pair.edited)
        prompts[side][name] = pair.prompt
        counts[side] += 1
    for part, found in prompts.items():
        if found:
            store.write(f"{part}_prompts.json", json.dumps(found, indent=1, ensure_ascii=False).encode())
    return dict(counts)


def _write_shard(store: Store, side: str, number: int, pairs: Sequence[Kept]) -> None:
    names = ("id", "edit", "edit_prompt", "input_image", "edited_image")
    fields = [pa.field(name, IMAGE if name in _TYPES else pa.string()) for name in names]
    features = {name: {"_type": "Image"} if name in _TYPES else {"dtype": "string", "_type": "Value"} for name in names}
    schema = pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
    rows = [
        {
            "id": pair.id,
            "edit": pair.edit,
            "edit_prompt": pair.prompt,
            "input_image": {"bytes": pair.source, "path": None},
            "edited_image": {"bytes": pair.edited, "path": None},
        }
        for pair in pairs
    ]
    store.write(f"data/{side}-{number:05}.parquet", table_bytes(pa.Table.from_pylist(rows, schema)))


def _card(counts: Counter[str], about: str) -> str:
    files = "".join(
        f"  - split: {side}\n    path: data/{side}-*.parquet\n" for side in ("train", "test") if counts[side]
    )
    return f"""---
task_categories:
- image-to-image
configs:
- config_name: default
  data_files:
{files}---

# Pairs of pictures before and after an edit

{about}

Made by pix2pix-zero, so the edited pictures are a diffusion model's, with its faults; the model's licence and that of
the source pictures hold for them. {counts["train"]:,} pairs to train on and {counts["test"]:,} to test with, split by
source picture.

| column | |
|---|---|
| `id`, `edit` | which source picture, which edit |
| `input_image` | before |
| `edit_prompt` | what is to be done |
| `edited_image` | after |
"""


def _file_name(pair: Kept) -> str:
    """A name that is safe in any file system, and no other pair's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{pair.id}-{pair.edit}")[-80:].lstrip(".-")
    digest = hashlib.sha256(f"{pair.id}\0{pair.edit}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kind = "png" if pair.source[:4] == b"\x89PNG" else "webp" if pair.source[8:12] == b"WEBP" else "jpg"
    return f"{plain}-{digest}.{kind}"
