"""`p2pz plan`: what a translation would do and cost, before a GPU is paid for."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from p2pz_ray.amount import count
from p2pz_ray.collection.listing import locate
from p2pz_ray.collection.partition import Plan
from p2pz_ray.collection.reader import read_partition
from p2pz_ray.collection.understood import Understood, understood
from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.job import columns_of
from p2pz_ray.errors import ConfigError
from p2pz_ray.running.progress import duration
from p2pz_ray.storage.store import Store
from p2pz_ray.translation.prepare import make_partitions, prepare

REPLICAS = (1, 8, 64)
"""Numbers of replicas for which time and cost are shown."""
_READS = ("cat_file", "info", "open", "ls", "find", "exists", "isdir")


@dataclass(frozen=True)
class Reading:
    """The cost of reading the first partition: requests to remote storage, None for local; and bytes read per byte of
    its pictures."""

    requests: int | None
    times: float


@dataclass(frozen=True)
class Forecast:
    """What a translation would do. pairs: rows of the run; largest: images in the largest partition.

    requests: to remote storage, for reading everything, None for local; times: how often each byte is read. rate:
    images per second and replica, None if not measured; price: per replica and hour.
    """

    collection: Understood
    pairs: int
    partitions: int
    largest: int
    requests: int | None
    times: float
    measured: int = 0
    device: str = ""
    rate: float | None = None
    price: float | None = None

    def hours(self, replicas: int) -> float:
        """Hours with this many replicas, but at most one per partition. Raises ValueError if nothing was measured."""
        if self.rate is None:
            raise ValueError("nothing was measured")
        return self.collection.images / self.rate / min(replicas, self.partitions) / 3600

    def __str__(self) -> str:
        lines = [
            str(self.collection),
            f"{count(self.pairs, 'pair')} from {count(self.partitions, 'partition')} of at most "
            f"{count(self.largest, 'image')}",
            f"each byte is read {self.times:.2g} times"
            + ("" if self.requests is None else f", in about {count(self.requests, 'request')}")
            + " (by the first partition)",
        ]
        if self.rate is not None:
            lines.append(
                f"{self.rate:.3g} images/s by one replica on {self.device} ({count(self.measured, 'image')} tried)"
            )
            for replicas in REPLICAS:
                idle = " (no more have work)" if replicas > self.partitions else ""
                cost = ""
                if self.price is not None:
                    cost = f", {self.hours(replicas) * min(replicas, self.partitions) * self.price:,.2f} in all"
                time_taken = duration(self.hours(replicas) * 3600)
                lines.append(f"  {count(replicas, 'replica')}: {time_taken}{cost}{idle}")
        return "\n".join(lines)


def forecast(config: TranslateConfig, measure: int | None = None, price: float | None = None) -> Forecast:
    """What a configuration's translation would do; see `p2pz_ray.plan`."""
    if price is not None and measure is None:
        raise ConfigError("--price needs --measure, since what a run costs depends on how long it takes.")
    given = config.input
    plan, _ = make_partitions(config)
    reading = _read_first(config, plan)
    requests = None
    if reading.requests is not None:
        requests = round(reading.requests * plan.images / plan.partitions[0].rows)
    rate, device, tried = None, "", 0
    if measure is not None:
        rate, device, tried = _measured(config, measure)
    return Forecast(
        collection=understood(given.uri, plan, columns_of(config), given.storage_options, counted=True),
        pairs=plan.images * len(config.edits),
        partitions=len(plan.partitions),
        largest=max(partition.rows for partition in plan.partitions),
        requests=requests,
        times=reading.times,
        measured=tried,
        device=device,
        rate=rate,
        price=price,
    )


def _read_first(config: TranslateConfig, plan: Plan) -> Reading:
    """Read the first partition as a replica would, and count requests and bytes."""
    given, partition = config.input, plan.partitions[0]
    store, _ = locate(Store(given.uri, given.storage_options))
    with _counted(store) as counts:
        max_bytes, options = config.image.max_bytes, given.storage_options
        items = read_partition(given.uri, partition, columns_of(config), options, max_bytes, given.follow)
        wanted = sum(len(item.data or b"") + len(item.mask or b"") for item in items)
    if store.local:
        return Reading(None, 1.0)
    return Reading(counts["requests"], counts["bytes"] / max(1, wanted))


@contextmanager
def _counted(store: Store) -> Iterator[dict[str, int]]:
    """Counts of requests to a remote file system, and of the bytes they return, within the block."""
    counts = {"requests": 0, "bytes": 0}
    if store.local:
        yield counts
        return

    def counting(call: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            found = call(*arguments, **options)
            counts["requests"] += 1
            counts["bytes"] += len(found) if isinstance(found, bytes) else 0
            return found

        return counted

    for name in _READS:
        setattr(store.fs, name, counting(getattr(store.fs, name)))
    try:
        yield counts
    finally:
        for name in _READS:
            delattr(store.fs, name)


def _measured(config: TranslateConfig, images: int) -> tuple[float, str, int]:
    """Images per second of a replica in this process, its device, and the number of images measured."""
    from p2pz_ray.translation.translator import Translator

    with TemporaryDirectory() as folder:
        given = config.input.model_copy(update={"max_images": min(images, config.input.max_images or images)})
        tried = config.model_copy(
            update={"input": given, "output": os.path.join(folder, "run"), "output_storage_options": {}}
        )
        prepared = prepare(tried)
        assert prepared is not None  # the folder is new
        job, plan = prepared
        translator = Translator(job)
        began = time.perf_counter()
        for partition in plan.partitions:
            translator.translate(partition)
        return plan.images / (time.perf_counter() - began), translator.device, plan.images
