"""The forms in which pairs are written, one shard at a time.

webdataset         OUT/{train,test}-00000.tar of KEY.source.png, KEY.edited.png, KEY.txt and KEY.json
imagefolder        OUT/{train,test}/00000/KEY.source.png, KEY.edited.png and metadata.jsonl, as Hugging Face reads it
instructpix2pix    OUT/data/{train,test}-00000.parquet with input_image, edit_prompt and edited_image, which
                   diffusers' train_instruct_pix2pix.py takes by default
img2img-turbo      OUT/{train,test}_{A,B}/KEY.png and {train,test}_prompts.json, as its paired training reads them
parquet            OUT/data/{train,test}-00000.parquet with a run's own column names, and its scores
"""

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyarrow as pa

from p2pz_ray.collection.schema import IMAGE, table_bytes
from p2pz_ray.export.pair import ExportPair, Side, extension
from p2pz_ray.storage.store import Store

Format = Literal["webdataset", "imagefolder", "instructpix2pix", "img2img-turbo", "parquet"]
SHARD_PAIRS, SHARD_BYTES = 1000, 256 * 2**20
"""The limits of a shard, which is held in memory."""


class Sharded:
    """Collects the pairs of each side, and writes a shard when there are enough.

    put: writes a shard, given its side, its number on that side and its pairs.
    """

    def __init__(self, put: Callable[[Side, int, Sequence[ExportPair]], None]) -> None:
        self._put = put
        self._waiting: defaultdict[Side, list[ExportPair]] = defaultdict(list)
        self._bytes: defaultdict[Side, int] = defaultdict(int)
        self._shards: defaultdict[Side, int] = defaultdict(int)

    def add(self, side: Side, pair: ExportPair) -> None:
        size = len(pair.source) + len(pair.edited)
        if self._waiting[side] and self._bytes[side] + size > SHARD_BYTES:
            self._flush(side)
        self._waiting[side].append(pair)
        self._bytes[side] += size
        if len(self._waiting[side]) == SHARD_PAIRS:
            self._flush(side)

    def close(self) -> None:
        """Write the remaining pairs; a side without pairs gets no file."""
        for side in list(self._waiting):
            if self._waiting[side]:
                self._flush(side)

    def _flush(self, side: Side) -> None:
        self._put(side, self._shards[side], self._waiting[side])
        self._shards[side] += 1
        self._waiting[side], self._bytes[side] = [], 0


class TurboFolders:
    """The folders that img2img-turbo reads, without shards: a file per picture, and a file of prompts per side."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prompts: defaultdict[Side, dict[str, str]] = defaultdict(dict)

    def add(self, side: Side, pair: ExportPair) -> None:
        name = f"{pair.name}.{extension(pair.source)}"
        self._store.write(f"{side}_A/{name}", pair.source)
        self._store.write(f"{side}_B/{name}", pair.edited)
        self._prompts[side][name] = pair.prompt

    def close(self) -> None:
        for side, prompts in self._prompts.items():
            self._store.write(f"{side}_prompts.json", json.dumps(prompts, indent=1, ensure_ascii=False).encode())


def writer(format: Format, store: Store) -> Sharded | TurboFolders:
    """The writer of pairs in this form into a folder."""
    if format == "img2img-turbo":
        return TurboFolders(store)
    put = {
        "webdataset": _write_tar,
        "imagefolder": _write_folder,
        "instructpix2pix": _write_instructions,
        "parquet": _write_table,
    }[format]
    return Sharded(lambda side, number, pairs: put(store, side, number, pairs))


def _write_tar(store: Store, side: Side, number: int, pairs: Sequence[ExportPair]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for pair in pairs:
            for name, data in _members(pair).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    store.write(f"{side}-{number:05}.tar", buffer.getvalue())


def _write_folder(store: Store, side: Side, number: int, pairs: Sequence[ExportPair]) -> None:
    folder, rows = f"{side}/{number:05}", []
    for pair in pairs:
        names = {}
        for kind, data in (("source", pair.source), ("edited", pair.edited)):
            names[f"{kind}_file_name"] = f"{pair.name}.{kind}.{extension(data)}"
            store.write(f"{folder}/{names[f'{kind}_file_name']}", data)
        rows.append(json.dumps(names | _fields(pair), ensure_ascii=False))
    store.write(f"{folder}/metadata.jsonl", "".join(f"{row}\n" for row in rows).encode("utf-8", "backslashreplace"))


def _write_instructions(store: Store, side: Side, number: int, pairs: Sequence[ExportPair]) -> None:
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
    kinds = {"id": pa.string(), "edit": pa.string(), "edit_prompt": pa.string()}
    _write_rows(store, side, number, rows, kinds | {"input_image": IMAGE, "edited_image": IMAGE})


def _write_table(store: Store, side: Side, number: int, pairs: Sequence[ExportPair]) -> None:
    rows = [
        _fields(pair)
        | {
            "source_image": {"bytes": pair.source, "path": f"source.{extension(pair.source)}"},
            "edited_image": {"bytes": pair.edited, "path": f"edited.{extension(pair.edited)}"},
        }
        for pair in pairs
    ]
    scores = sorted({name for pair in pairs for name in pair.scores})
    kinds = {"id": pa.string(), "edit": pa.string(), "source_image": IMAGE, "edited_image": IMAGE}
    kinds |= {"prompt": pa.string(), "caption": pa.string(), **dict.fromkeys(scores, pa.float64())}
    _write_rows(store, side, number, rows, kinds)


def _write_rows(
    store: Store, side: Side, number: int, rows: Sequence[dict[str, Any]], kinds: dict[str, pa.DataType]
) -> None:
    dtypes = {pa.string(): "string", pa.float64(): "float64"}
    features = {
        name: {"_type": "Image"} if kind == IMAGE else {"dtype": dtypes[kind], "_type": "Value"}
        for name, kind in kinds.items()
    }
    schema = pa.schema(list(kinds.items()), {"huggingface": json.dumps({"info": {"features": features}})})
    store.write(f"data/{side}-{number:05}.parquet", table_bytes(pa.Table.from_pylist(list(rows), schema)))


def _members(pair: ExportPair) -> dict[str, bytes]:
    """The members of a pair's sample in a tar."""
    return {
        f"{pair.name}.source.{extension(pair.source)}": pair.source,
        f"{pair.name}.edited.{extension(pair.edited)}": pair.edited,
        f"{pair.name}.txt": pair.prompt.encode("utf-8", "backslashreplace"),
        f"{pair.name}.json": json.dumps(_fields(pair)).encode(),
    }


def _fields(pair: ExportPair) -> dict[str, Any]:
    """All fields of a pair except its pictures."""
    return {"id": pair.id, "edit": pair.edit, "prompt": pair.prompt, "caption": pair.caption, **pair.scores}
