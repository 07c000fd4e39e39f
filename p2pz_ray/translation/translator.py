"""Turns a partition into pairs. Reading and decoding run ahead of the model and encoding after it, so it never
waits."""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p2pz_ray.collection.in_order import in_order
from p2pz_ray.collection.partition import Partition
from p2pz_ray.collection.reader import Item, read_partition
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.editing.mask import from_picture, to_picture
from p2pz_ray.editing.model import chosen_device
from p2pz_ray.editing.passes import out_of_memory
from p2pz_ray.engines.edited import Edited, Picture
from p2pz_ray.engines.engine import load_engine
from p2pz_ray.engines.job import Job
from p2pz_ray.engines.precision import dtype_of
from p2pz_ray.engines.safety import Safety
from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.picture.codec import DecodePolicy, decode, encode
from p2pz_ray.picture.mark import Provenance, xmp
from p2pz_ray.running import log
from p2pz_ray.storage.failure import StorageError
from p2pz_ray.translation.ahead import Ahead
from p2pz_ray.translation.line import Line
from p2pz_ray.translation.pairs import Pairs
from p2pz_ray.translation.provenance import provenance, signer

AHEAD = 2
"""Batches that are decoded before the model needs them, and batches that may wait to be encoded."""
SMALLEST, LARGEST = 4, 32
"""Limits of images per batch when it is chosen by memory."""


@dataclass
class Batch:
    """Some images of a partition in order: the decoded ones, and error sentences for the others."""

    pictures: list[Picture] = field(default_factory=list)
    broken: list[tuple[int, Item, str]] = field(default_factory=list)


class DeviceLostError(Exception):
    """The accelerator has failed: only a new process can use it again."""


class Translator:
    """An engine with reading, decoding, encoding and commits, in one process. Raises ConfigError if it can't be
    loaded."""

    def __init__(self, job: Job) -> None:
        config = job.config
        self.job = job
        self.device = chosen_device(config.device)
        self.engine = load_engine(job, self.device)
        self.safety = None if config.safety is None else Safety(config.safety, self.device)
        self.policy = DecodePolicy(
            job.size,
            fit=config.image.fit,
            max_bytes=config.image.max_bytes,
            max_pixels=config.image.max_pixels,
        )
        self.batch_size = config.batch_size or SMALLEST
        """Images given to the engine at once; halved permanently whenever memory runs out. If the configuration sets no
        number, doubled as long as the GPU has room."""
        self.grows = config.batch_size is None
        self.provenances = [provenance(config, name) for name in config.edits]
        """The provenance recorded in each edit's pictures."""
        self.signer = signer(config)
        self.hands = ThreadPoolExecutor(max(1, int(config.replicas.cpus)), thread_name_prefix="hands")
        """Threads that decode and encode pictures."""
        self._reading, self._editing, self._door = Line(), Line(), threading.Lock()
        """Partitions are read one after another, so that bytes that two of them share are read once, and edited one
        after another. While one is edited, the next is read and the previous one is encoded and written."""
        self._done: dict[str, int] = {}
        """Partition id → number of its images already translated, for partitions in progress."""
        self._unwritten: dict[str, dict[str, Any]] = {}
        """Partition id → what to commit, for partitions that wait for the storage."""

    @property
    def underway(self) -> int:
        """Images already translated in partitions that aren't committed yet."""
        return sum(list(self._done.values()))

    def translate(self, partition: Partition) -> Manifest:
        """Translate and commit a partition; returns its manifest, at once where it is committed already. Several
        threads may call it: they share the engine by turns."""
        made = self._unwritten.pop(partition.id, None)
        if made is None:
            standing = self.job.folder.standing(partition.id, self.job.fingerprint)
            if standing is not None:
                return standing
        try:
            return self._commit(partition, made or self._made(partition))
        finally:
            self._done.pop(partition.id, None)

    def _made(self, partition: Partition) -> dict[str, Any]:
        """Translate a partition; returns the arguments of its commit."""
        config = self.job.config
        with self._door:  # so that both queues have the same order
            reading, editing = self._reading.join(), self._editing.join()
        pairs = Pairs.of(config)
        seconds = {"waiting": 0.0, "model": 0.0}
        behind: deque[Callable[[], None]] = deque()
        read = Ahead(self.batches(self._items(partition, reading), partition.id), AHEAD)
        try:
            self._editing.wait(editing)
            started, self._done[partition.id] = time.time(), 0
            self.engine.begin(partition)
            clock = time.perf_counter()
            for batch in read:
                seconds["waiting"] += time.perf_counter() - clock
                clock = time.perf_counter()
                edited = self.edited(batch.pictures)
                seconds["model"] += time.perf_counter() - clock
                behind.append(self._encoding(pairs, batch, edited))
                self._done[partition.id] += len(batch.pictures) + len(batch.broken)
                clock = time.perf_counter()
                while len(behind) > AHEAD:
                    behind.popleft()()
            self.engine.end()
        finally:
            read.close()
            self._reading.leave(reading)
            self._editing.leave(editing)
        while behind:
            behind.popleft()()
        for id, sentence in pairs.failures:
            log.failed(config.output, partition.id, id, sentence)
        return dict(
            data=pairs.to_parquet({"p2pz_ray.fingerprint": self.job.fingerprint}),
            images=pairs.images,
            rows=pairs.images * len(config.edits),
            failed=pairs.failed,
            flagged=pairs.flagged,
            fingerprint=self.job.fingerprint,
            started=started,
            seconds={stage: round(spent, 3) for stage, spent in seconds.items()},
            replica=f"{socket.gethostname()}:{os.getpid()}",
            device=self.device,
            dtype=str(dtype_of(config, self.device)).removeprefix("torch."),
        )

    def _commit(self, partition: Partition, made: dict[str, Any]) -> Manifest:
        """Commit a partition. If the storage fails, it is kept, to be written when the partition is asked for again."""
        try:
            return self.job.folder.commit(partition.id, **made)
        except StorageError:
            while len(self._unwritten) >= self.job.config.replicas.in_flight:
                del self._unwritten[next(iter(self._unwritten))]  # it was given to another replica meanwhile
            self._unwritten[partition.id] = made
            raise

    def _items(self, partition: Partition, ticket: object) -> Iterator[Item]:
        given, columns = self.job.config.input, self.job.columns
        max_bytes = self.job.config.image.max_bytes
        self._reading.wait(ticket)
        try:
            yield from read_partition(given.uri, partition, columns, given.storage_options, max_bytes, given.follow)
        finally:
            self._reading.leave(ticket)

    def batches(self, items: Iterable[Item], partition: str) -> Generator[Batch, None, None]:
        """The items decoded, as many together as the engine may be given at once; `partition` is named in the log."""
        config, batch = self.job.config, Batch()
        decoded = partial(self._decoded, partition=partition)
        most = 2 * max(1, int(config.replicas.cpus))
        for row, item, found in in_order(decoded, enumerate(items), self.hands, most):
            if isinstance(found, Picture):
                batch.pictures.append(found)
            else:
                batch.broken.append((row, item, found))
            if len(batch.pictures) >= (config.batch_size or LARGEST):
                yield batch
                batch = Batch()
        if batch.pictures or batch.broken:
            yield batch

    def _decoded(self, numbered: tuple[int, Item], partition: str) -> tuple[int, Item, Picture | str]:
        """The item of a row, and its picture, or the sentence that says why there is none."""
        (row, item), config = numbered, self.job.config
        try:
            if item.data is None:
                raise ImageError(item.error or "There is no image in this row.")
            caption = item.caption if config.captions.column else None
            pixels = decode(item.data, self.policy, partial(log.assumed, config.output, partition, item.id))
            return row, item, Picture(row, item.id, pixels, caption, self._mask(item), self._conditions(item))
        except ImageError as error:
            return row, item, str(error)

    def _mask(self, item: Item) -> NDArray[np.float32] | None:
        """Where and for how long the item may be edited, fitted as its picture is; padding never is."""
        if self.job.columns.mask is None and self.job.columns.masks is None:
            return None
        if item.mask is None:
            raise ImageError("It has no mask.")
        try:
            return from_picture(decode(item.mask, replace(self.policy, background=(0, 0, 0))))
        except ImageError as error:
            raise ImageError(f"Its mask can't be used: {error}") from error

    def _conditions(self, item: Item) -> tuple[NDArray[np.uint8], ...]:
        """The item's pictures of the columns that conditions name, fitted as its picture is."""
        names, black = self.job.columns.conditions, replace(self.policy, background=(0, 0, 0))
        found = []
        for name, data in zip(names, item.conditions or (None,) * len(names), strict=True):
            if data is None:
                raise ImageError(f"It has no {name}.")
            try:
                if isinstance(data, str):
                    raise ImageError(data)
                found.append(decode(data, black))
            except ImageError as error:
                raise ImageError(f"Its {name} can't be used: {error}") from error
        return tuple(found)

    def edited(self, pictures: list[Picture]) -> list[Edited]:
        """Translate pictures, as many at once as fit."""
        edited: list[Edited] = []
        while len(edited) < len(pictures):
            edited += self._together(pictures[len(edited) :][: self.batch_size])
        return edited

    def _together(self, pictures: list[Picture]) -> list[Edited]:
        """Translate pictures together where possible, alone where not."""
        exhausted = False
        try:
            edited = [self._looked_at(one) for one in self.engine.edit(pictures)]
            if self.grows and len(pictures) == self.batch_size < LARGEST and room_for_twice(self.device):
                self.batch_size *= 2
            return edited
        except ConfigError:
            raise
        except Exception as error:
            if "CUDA error" in str(error):
                raise DeviceLostError(str(error)) from error
            exhausted = out_of_memory(error)
            sentence = f"The model can't translate it ({_one_line(error)})."
            if exhausted:
                sentence = "The device has too little memory for it, even alone: lower image.size."
        # Out here the exception is gone, and with it what its traceback held of the device's memory.
        if exhausted and self.device == "cuda":
            torch.cuda.empty_cache()
        if len(pictures) == 1:
            return [Edited(pictures[0].caption, None, sentence)]
        if exhausted:
            self.batch_size, self.grows = len(pictures) // 2, False
            return self.edited(pictures)
        return [edited for picture in pictures for edited in self._together([picture])]

    def _looked_at(self, edited: Edited) -> Edited:
        """With what the safety checker says, where there is one, of all that are pictures."""
        if self.safety is None or edited.pixels is None:
            return edited
        return replace(edited, flags=tuple(self.safety.flagged(edited.pixels)))

    def write(self, pairs: Pairs, batch: Batch, edited: list[Edited]) -> None:
        """Encode a batch into pairs."""
        self._encoding(pairs, batch, edited)()

    def _encoding(self, pairs: Pairs, batch: Batch, edited: list[Edited]) -> Callable[[], None]:
        """Begin to encode a batch; what is returned waits for that and puts it into pairs."""
        begun = [
            self.hands.submit(self._put_into, pairs, picture, result)
            for picture, result in zip(batch.pictures, edited, strict=True)
        ]

        def put() -> None:
            for row, item, sentence in batch.broken:
                pairs.fail(row, item.id, sentence, item.caption)
            for future in begun:
                future.result()()

        return put

    def _put_into(self, pairs: Pairs, picture: Picture, result: Edited) -> Callable[[], None]:
        """Encode what a picture became; what is returned puts it into pairs."""
        format = self.job.config.output_format
        source = encode(picture.pixels, format.format, format.quality)
        if result.pixels is None:
            sentence = result.error or "The model can't translate it."
            return partial(pairs.fail, picture.row, picture.id, sentence, result.caption, source)
        faults = result.faults or (None,) * len(result.pixels)
        flags = result.flags or (False,) * len(faults)
        shown = [
            self._shown(pixels, fault, flag) for pixels, fault, flag in zip(result.pixels, faults, flags, strict=True)
        ]
        pictures = [
            None if pixels is None else self._encoded(pixels, source, from_)
            for pixels, from_ in zip(shown, self.provenances, strict=True)
        ]
        found = () if result.masks is None or not pairs.masks else result.masks
        masks = [encode(to_picture(mask)) for mask in found]
        conditions = [encode(pixels) for pixels in result.conditions[: pairs.conditions]]
        return partial(
            pairs.add, picture.row, picture.id, result.caption, source, pictures, faults, masks, flags, conditions
        )

    def _shown(self, pixels: NDArray[np.uint8], fault: str | None, flag: bool) -> NDArray[np.uint8] | None:
        """What an edit's row holds."""
        if fault is not None:
            return None
        return self.safety.held(pixels) if flag and self.safety is not None else pixels

    def _encoded(self, pixels: NDArray[np.uint8], source: bytes, provenance: Provenance) -> bytes:
        """An edited picture as a file that says what it is. source: the file that its source is kept in."""
        format = self.job.config.output_format
        packet = xmp(provenance) if format.mark == "xmp" else None
        encoded = encode(pixels, format.format, format.quality, packet)
        return encoded if self.signer is None else self.signer.signed(encoded, source, format.format, provenance)


def room_for_twice(device: str) -> bool:
    """Whether a GPU has room, and a fifth to spare, for twice what was ever taken of it; a CPU gains nothing by it."""
    if device == "cpu":
        return False
    free, _ = torch.cuda.mem_get_info()
    return 2 * torch.cuda.max_memory_allocated() <= 0.8 * (free + torch.cuda.memory_reserved())


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}".rstrip(".: ")
