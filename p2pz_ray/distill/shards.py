"""The chosen pairs, copied once into shards beside the training, and read from there in an order that depends only on
the seed and the position.

    OUTPUT/pairs/train-00000.arrow …  test-00000.arrow …     Arrow IPC: id, source, edited (PNG of the trained size),
                                                             parts (the edits shown and their strengths, JSON)
    OUTPUT/pairs/index.json                                  written last: the shards, the size, what was left out
"""

import hashlib
import io
import json
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config.distill import DistillConfig, check_size
from p2pz_ray.distill.pairs import Candidate, PairSource
from p2pz_ray.distill.taught import repertoire
from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.picture.alike import Alike
from p2pz_ray.picture.codec import FORMATS, DecodePolicy, decode, encode
from p2pz_ray.student.repertoire import Repertoire, Skill
from p2pz_ray.student.student import to_tensor

SHARD_ROWS = 256
SHARD_BYTES = 32 * 2**20
DECODERS = 4
_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.binary()), ("edited", pa.binary()), ("parts", pa.string())])

Pixels = NDArray[np.uint8]


def prepare_pairs(config: DistillConfig, folder: RunFolder) -> dict[str, Any]:
    """Choose, decode and copy the pairs, unless they are there already; returns the index.

    Raises ConfigError where no pair is left, with the count of each reason, and for pictures of several sizes.
    """
    index = folder.read_json("pairs/index.json")
    if index is not None:
        return dict(index)
    source = PairSource(config.pairs)
    candidates = _sample(source.candidates(), config)
    known_edits = _repertoire(source, candidates, config)
    parts: dict[str, _Writer] = {part: _Writer(folder, part) for part in ("train", "test")}
    size = config.image.size
    repeats = _Repeats(config.pairs.duplicates)
    for candidate, before, after in source.pictures(candidates):
        if before is None or after is None:
            source.drop("has both pictures")
            continue
        size = size or _own_size(before, candidate.id)
        try:
            if (
                config.image.size is None
                and not _own_size(before, candidate.id) == _own_size(after, candidate.id) == size
            ):
                sizes = (_own_size(before, candidate.id), _own_size(after, candidate.id))
                raise ConfigError(
                    f"The pair {candidate.id} has pictures of {sizes[0]} and {sizes[1]} (height, width), others of "
                    f"{size}: set image.size, and all are resized to it."
                )
            policy = DecodePolicy(size, config.image.fit, config.image.max_bytes, config.image.max_pixels)
            pictures = decode(before, policy), decode(after, policy)
        except ImageError:
            source.drop("can be decoded")
            continue
        if repeats.seen(candidate, pictures[0]):
            source.drop("is no near duplicate of another")
            continue
        part = "test" if _uniform(candidate.id, config.seed) < config.pairs.test else "train"
        parts[part].add(candidate, *pictures)
    if not parts["train"].rows:
        raise ConfigError(_none_left(source.total, source.dropped, parts["test"].rows))
    assert size is not None
    try:
        side = check_size(size)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    index = {
        "size": side,
        "edits": known_edits.to_json(),
        "total": source.total,
        "dropped": source.dropped,
        **{part: writer.close() for part, writer in parts.items()},
    }
    folder.write_json("pairs/index.json", index)
    return index


class Shards:
    """The pairs of one part, "train" or "test", by number. At most `held` shards stay in memory.

    rows, edits: each shard's number of rows, and the edit that all its rows show ("a + b" for several at once).
    """

    def __init__(self, folder: RunFolder, index: dict[str, Any], part: str, held: int) -> None:
        self._store, self._held = folder.store, held
        self._files = [str(shard["file"]) for shard in index[part]]
        self.rows = [int(shard["rows"]) for shard in index[part]]
        self.edits = [str(shard["edit"]) for shard in index[part]]
        self.repertoire = Repertoire.from_json(index["edits"])
        self._first = np.concatenate([[0], np.cumsum(self.rows)]).astype(int)
        self._policy = DecodePolicy((index["size"], index["size"]))
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Sources and edited pictures, each (B, 3, size, size) in -1 … 1, and the directions times their strengths
        (B, D); D is 0 for one edit at one strength."""
        rows = [self._row(number) for number in numbers]
        encoded = [column[row].as_py() for table, row in rows for column in (table["source"], table["edited"])]
        with ThreadPoolExecutor(DECODERS) as decoders:
            pixels = list(decoders.map(lambda data: decode(data, self._policy), encoded))
        x = to_tensor(np.stack(pixels))
        sums = [self.repertoire.direction(json.loads(table["parts"][row].as_py())) for table, row in rows]
        return x[0::2], x[1::2], torch.tensor(sums).view(len(rows), self.repertoire.width)

    def evenly(self, most: int) -> list[int]:
        """The numbers of at most `most` pairs, evenly spaced, so that each edit has its share."""
        count = min(len(self), most)
        return [i * len(self) // count for i in range(count)]

    def _row(self, number: int) -> tuple[pa.Table, int]:
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        if shard not in self._tables:
            self._tables[shard] = pa.ipc.open_file(self._store.read(self._files[shard])).read_all()
        self._tables.move_to_end(shard)
        while len(self._tables) > self._held:
            self._tables.popitem(last=False)
        return self._tables[shard], number - int(self._first[shard])


class Order:
    """An endless order of pairs: each once per epoch, in a new shuffle. Shards are shuffled, then the pairs of every
    `window` shards, so that a reader needs few shards at a time. Any position can be read directly."""

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


class Turns:
    """Takes pairs of each edit in turn, so that edits with few pairs are shown as often as those with many; each edit
    has the `Order` of its own shards. The edits share the `window`."""

    def __init__(self, rows: Sequence[int], edits: Sequence[str], window: int, seed: int) -> None:
        first = np.concatenate([[0], np.cumsum(rows)]).astype(int)
        self._orders, self._numbers = [], []
        window = max(window // len(set(edits)), 1)
        for number, edit in enumerate(dict.fromkeys(edits)):
            shards = [shard for shard, other in enumerate(edits) if other == edit]
            self._orders.append(Order([rows[shard] for shard in shards], window, seed + 7919 * number))
            self._numbers.append(np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in shards]))

    def at(self, position: int, count: int) -> list[int]:
        """The numbers of the pairs that come at `position` and after it."""
        numbers = []
        for place in range(position, position + count):
            turn, edit = divmod(place, len(self._orders))
            [row] = self._orders[edit].at(turn, 1)
            numbers.append(int(self._numbers[edit][row]))
        return numbers


class _Writer:
    """Shards of one part, each of one edit."""

    def __init__(self, folder: RunFolder, part: str) -> None:
        self._folder, self._part = folder, part
        self._shards: list[dict[str, Any]] = []
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._bytes: dict[str, int] = {}
        self.rows = 0

    def add(self, candidate: Candidate, source: Pixels, edited: Pixels) -> None:
        row = {
            "id": candidate.id,
            "source": encode(source),
            "edited": encode(edited),
            "parts": json.dumps(dict(candidate.parts)),
        }
        edit = " + ".join(sorted(candidate.parts))
        waiting = self._waiting.setdefault(edit, [])
        waiting.append(row)
        self._bytes[edit] = self._bytes.get(edit, 0) + len(row["source"]) + len(row["edited"])
        self.rows += 1
        if len(waiting) == SHARD_ROWS or self._bytes[edit] >= SHARD_BYTES:
            self._put(edit)

    def close(self) -> list[dict[str, Any]]:
        for edit in list(self._waiting):
            self._put(edit)
        return self._shards

    def _put(self, edit: str) -> None:
        rows = self._waiting.pop(edit)
        del self._bytes[edit]
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, _SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
        file = f"pairs/{self._part}-{len(self._shards):05}.arrow"
        self._folder.store.write(file, buffer.getvalue())
        self._shards.append({"file": file, "rows": len(rows), "edit": edit})


class _Repeats:
    """Finds near duplicates of earlier sources, and repeated pairs. A source is kept with all of its edits, or none."""

    def __init__(self, duplicates: float) -> None:
        self._alike = Alike(duplicates)
        self._sources: dict[tuple[str, bytes], bool] = {}
        self._pairs: set[tuple[str, bytes, str]] = set()
        self._all = not duplicates

    def seen(self, candidate: Candidate, picture: Pixels) -> bool:
        if self._all:
            return False
        source = candidate.id, hashlib.sha256(picture.tobytes()).digest()
        if source not in self._sources:
            self._sources[source] = self._alike.seen(picture)
        pair = *source, json.dumps(dict(candidate.parts), sort_keys=True)
        again = pair in self._pairs
        self._pairs.add(pair)
        return again or self._sources[source]


def _repertoire(source: PairSource, candidates: Sequence[Candidate], config: DistillConfig) -> Repertoire:
    """The edits that the student will know. Raises ConfigError where its generator can't tell them apart."""
    combinations = {json.dumps(dict(candidate.parts), sort_keys=True): candidate.parts for candidate in candidates}
    edits = sorted({name for parts in combinations.values() for name in parts})
    if not config.generator.style:
        if len(combinations) > 1:
            raise ConfigError(
                f"The pairs show {', '.join(edits)} in {len(combinations)} ways (edits, strengths, several at once), "
                "but generator.style is 0, which is for one edit at one strength: set generator.style, or pairs.edit."
            )
        return Repertoire({name: Skill() for name in edits[:1]})
    if {} in combinations.values():
        raise ConfigError("generator.style needs the names of edits, and the pairs have none: set it to 0.")
    result = repertoire(source.folders, combinations.values())
    if any(strength <= 0 for parts in combinations.values() for strength in parts.values()):
        raise ConfigError("The pairs show a strength of 0 or below: leave it out, since 0 is always the source itself.")
    return result


def _sample(candidates: list[Candidate], config: DistillConfig) -> list[Candidate]:
    """At most `pairs.max_pairs`: all pairs of as many sources as fit, drawn by their ids alone."""
    most = config.pairs.max_pairs
    if most is None or len(candidates) <= most:
        return candidates
    counts = Counter(candidate.id for candidate in candidates)
    kept, room = set(), most
    for id in sorted(counts, key=lambda id: _uniform(id, config.seed, "sample")):
        room -= counts[id]
        if room < 0:
            break
        kept.add(id)
    return [candidate for candidate in candidates if candidate.id in kept]


def _own_size(data: bytes, id: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.height, image.width
    except Exception as error:  # decoders fail on broken files with nearly every kind of exception
        raise ImageError(f"The pair {id} has a picture that can't be decoded.") from error


def _uniform(id: str, seed: int, purpose: str = "") -> float:
    """A number in 0 … 1 from a source's id alone, so that it is the same for all pairs of one source."""
    digest = hashlib.sha256(f"{seed}:{purpose}{id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _none_left(total: int, dropped: dict[str, int], test: int) -> str:
    reasons = [f"“{reason}” took {count:,}" for reason, count in dropped.items() if count]
    if test:
        reasons.append(f"pairs.test took {test:,}")
    return (
        f"No pair is left to learn from, of {total:,}: {', '.join(reasons)}. Loosen pairs.filter, or make more pairs."
    )
