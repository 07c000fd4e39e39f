"""The chosen pairs, copied once into shards beside the training, and read from there in an order that is a function of
the seed and the position alone.

    OUTPUT/pairs/train-00000.arrow …  test-00000.arrow …     Arrow IPC: id, source, edited (PNG of the trained size)
    OUTPUT/pairs/index.json                                  put last: the shards, the size, what was left out and why
"""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p2pz_ray.collection.alike import Alike
from p2pz_ray.collection.codec import FORMATS, DecodePolicy, decode, encode
from p2pz_ray.collection.manifest import RunFolder
from p2pz_ray.distill.config import DistillConfig, check_size
from p2pz_ray.distill.pairs import PairSource
from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.student.student import to_tensor

SHARD_ROWS = 256
SHARD_BYTES = 32 * 2**20
DECODERS = 4
_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.binary()), ("edited", pa.binary())])

Pixels = NDArray[np.uint8]


def prepare_pairs(config: DistillConfig, folder: RunFolder) -> dict[str, Any]:
    """Choose, decode and copy the pairs, unless it is done; returns the index.

    Raises ConfigError where no pair survives, with what each reason took, and for pictures of several sizes.
    """
    index = folder.read_json("pairs/index.json")
    if index is not None:
        return dict(index)
    source = PairSource(config.pairs)
    candidates = source.candidates()
    parts: dict[str, _Writer] = {part: _Writer(folder, part) for part in ("train", "test")}
    size = config.image.size
    alike = Alike(config.pairs.duplicates)
    for one, before, after in source.pictures(candidates):
        if before is None or after is None:
            source.drop("has both pictures")
            continue
        size = size or _own_size(before, one.id)
        try:
            if config.image.size is None and not _own_size(before, one.id) == _own_size(after, one.id) == size:
                found = (_own_size(before, one.id), _own_size(after, one.id))
                raise ConfigError(
                    f"The pair {one.id} has pictures of {found[0]} and {found[1]} (height, width), others of {size}: "
                    "set image.size, and all are brought to it."
                )
            policy = DecodePolicy(size, config.image.fit, config.image.max_bytes, config.image.max_pixels)
            pictures = decode(before, policy), decode(after, policy)
        except ImageError:
            source.drop("can be decoded")
            continue
        if alike.seen(pictures[0]):
            source.drop("is no near duplicate of another")
            continue
        part = "test" if _of_test(one.id, config) else "train"
        parts[part].add(one.id, *pictures)
        if sum(writer.rows for writer in parts.values()) == config.pairs.max_pairs:
            break
    if not parts["train"].rows:
        raise ConfigError(_none_left(source.total, source.dropped, parts["test"].rows))
    assert size is not None
    try:
        side = check_size(size)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    index = {
        "size": side,
        "edit": config.pairs.edit or (str(candidates[0].values["edit"]) if "edit" in candidates[0].values else None),
        "total": source.total,
        "dropped": source.dropped,
        **{part: writer.close() for part, writer in parts.items()},
    }
    folder.write_json("pairs/index.json", index)
    return index


class Shards:
    """The pairs of one part, "train" or "test", by number. Shards in use stay in memory, at most `held` of them."""

    def __init__(self, folder: RunFolder, index: dict[str, Any], part: str, held: int) -> None:
        self._store, self._held = folder.store, held
        self._files = [str(shard["file"]) for shard in index[part]]
        self.rows = [int(shard["rows"]) for shard in index[part]]
        self._first = np.concatenate([[0], np.cumsum(self.rows)]).astype(int)
        self._policy = DecodePolicy((index["size"], index["size"]))
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sources and edited pictures, each (B, 3, size, size) in -1 … 1."""
        rows = [self._row(number) for number in numbers]
        encoded = [column[row].as_py() for table, row in rows for column in (table["source"], table["edited"])]
        with ThreadPoolExecutor(DECODERS) as decoders:
            pixels = list(decoders.map(lambda data: decode(data, self._policy), encoded))
        x = to_tensor(np.stack(pixels))
        return x[0::2], x[1::2]

    def _row(self, number: int) -> tuple[pa.Table, int]:
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        if shard not in self._tables:
            self._tables[shard] = pa.ipc.open_file(self._store.read(self._files[shard])).read_all()
        self._tables.move_to_end(shard)
        while len(self._tables) > self._held:
            self._tables.popitem(last=False)
        return self._tables[shard], number - int(self._first[shard])


class Order:
    """An endless order of pairs: each once an epoch, shuffled anew. Shards are shuffled, and the pairs of `window`
    neighbouring ones among each other, so that a reader needs few at a time. Any position can be asked for."""

    def __init__(self, rows: Sequence[int], window: int, seed: int) -> None:
        self._rows, self._window, self._seed = list(rows), window, seed
        self._first = np.concatenate([[0], np.cumsum(self._rows)]).astype(int)
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def at(self, position: int, count: int) -> list[int]:
        """The numbers of the pairs that come at `position` and after it."""
        total = int(self._first[-1])
        return [int(self._shuffled(place // total)[place % total]) for place in range(position, position + count)]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            shards = rng.permutation(len(self._rows))
            parts = []
            for start in range(0, len(shards), self._window):
                window = shards[start : start + self._window]
                numbers = np.concatenate([np.arange(self._first[s], self._first[s + 1]) for s in window])
                parts.append(rng.permutation(numbers))
            self._epoch = epoch, np.concatenate(parts)
        return self._epoch[1]


class _Writer:
    def __init__(self, folder: RunFolder, part: str) -> None:
        self._folder, self._part = folder, part
        self._shards: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._bytes = 0
        self.rows = 0

    def add(self, id: str, source: Pixels, edited: Pixels) -> None:
        row = {"id": id, "source": encode(source), "edited": encode(edited)}
        self._waiting.append(row)
        self._bytes += len(row["source"]) + len(row["edited"])
        self.rows += 1
        if len(self._waiting) == SHARD_ROWS or self._bytes >= SHARD_BYTES:
            self._put()

    def close(self) -> list[dict[str, Any]]:
        if self._waiting:
            self._put()
        return self._shards

    def _put(self) -> None:
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, _SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist(self._waiting, _SCHEMA))
        file = f"pairs/{self._part}-{len(self._shards):05}.arrow"
        self._folder.store.write(file, buffer.getvalue())
        self._shards.append({"file": file, "rows": len(self._waiting)})
        self._waiting, self._bytes = [], 0


def _own_size(data: bytes, id: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return opened.height, opened.width
    except Exception as error:  # decoders fail on broken files with nearly every kind of exception
        raise ImageError(f"The pair {id} has a picture that can't be decoded.") from error


def _of_test(id: str, config: DistillConfig) -> bool:
    """By the source's id alone: all pairs of one source are on one side."""
    digest = hashlib.sha256(f"{config.seed}:{id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < config.pairs.test


def _none_left(total: int, dropped: dict[str, int], test: int) -> str:
    taken = [f"“{reason}” took {count:,}" for reason, count in dropped.items() if count]
    if test:
        taken.append(f"pairs.test took {test:,}")
    return f"No pair is left to learn from, of {total:,}: {', '.join(taken)}. Loosen pairs.filter, or make more pairs."
