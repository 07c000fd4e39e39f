"""The editor, or a student, as a stage of a user's Ray Data pipeline.

    pairs = ray.data.read_parquet("s3://bucket/cats").map_batches(
        EditBatch,
        fn_constructor_args=({"model": "mini", "edits": {"cat2dog": {"source": "cat", "target": "dog"}}},),
        batch_format="pyarrow",
        batch_size=8,
        num_gpus=1,
        concurrency=4,
    )

A row has the same pixels as in a run of the same configuration, up to rounding, which depends on the batch size and the
number of cores. Ray Data doesn't have a run's other guarantees: it repeats a stage that fails, so what that stage wrote
may be there twice; nothing resumes after the driver has ended; and no partition that kills its process is left out.
"""

import io
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from PIL import Image

from p2pz_ray.collection.cells import pictures, plain, texts
from p2pz_ray.collection.reader import Item
from p2pz_ray.config import TranslateConfig
from p2pz_ray.config.given import Given, configuration
from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.translation.pairs import Pairs
from p2pz_ray.translation.prepare import unplanned
from p2pz_ray.translation.translator import Translator


class EditBatch:
    """A class for `Dataset.map_batches` with batch_format="pyarrow": images in, pairs out, a row for each edit.

    config: as for `p2pz_ray.translate`, but without `input.uri`, `output` and the keys about Ray. A batch has the
    columns named by `input.columns` and `captions.column`: ids, which seed each image's randomness; images, encoded or
    (H, W, 3) uint8; captions, if any.

    Raises ConfigError for a configuration that a run would refuse. An image that can't be edited becomes an error
    row.
    """

    def __init__(self, config: Given, *settings: str) -> None:
        if isinstance(config, Mapping):
            config = {"output": "-", **config, "input": {"uri": "-", **dict(config.get("input") or {})}}
        found = configuration(config, settings, TranslateConfig)
        if found.inversion.cache is not None:
            raise ConfigError("inversion.cache keeps a run's partitions, and EditBatch has none: leave it out.")
        _keep_to_own_cores()
        # The directions are written here for the model to read, and deleted once it has them.
        with TemporaryDirectory() as folder:
            job = unplanned(found.model_copy(update={"output": folder, "output_storage_options": {}}))
            self._translator = Translator(job)
        self._config = job.config
        self._columns = job.columns

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The pairs of a batch, with a run's columns, in the batch's order."""
        config = self._config
        pairs = Pairs.of(config)
        for part in self._translator.batches(self._items(batch), "map_batches"):
            self._translator.write(pairs, part, self._translator.edited(part.pictures))
        return pairs.to_table({})

    def _items(self, batch: pa.Table) -> list[Item]:
        columns, names = self._columns, batch.schema.names
        named = [("condition", name) for name in columns.conditions]
        for role, name in (("image", columns.image), ("id", columns.id), ("mask", columns.mask), *named):
            if name is not None and name not in names:
                raise ConfigError(f"A batch has no {role} column {name!r}; its columns are {', '.join(names)}.")
        rows = batch.combine_chunks()
        data, ids = self._encoded(rows, columns.image), self._texts(rows, columns.id)
        captions = self._texts(rows, columns.caption) if columns.caption in names else [None] * len(data)
        masks = self._encoded(rows, columns.mask) if columns.mask is not None else [None] * len(data)
        shown = [self._encoded(rows, name) for name in columns.conditions]
        others = list(zip(*shown, strict=True)) if shown else [()] * len(data)
        if None in ids:
            raise ConfigError(f"A row has no {columns.id}: each image needs an id, which its randomness begins from.")
        return [
            Item(str(id), found, caption, None if found else "Its image is null.", mask, conditions)
            for id, found, caption, mask, conditions in zip(ids, data, captions, masks, others, strict=True)
        ]

    def _texts(self, batch: pa.Table, name: str | None) -> list[str | None]:
        return [text for chunk in batch[name].chunks for text in texts(plain(chunk))]

    def _encoded(self, batch: pa.Table, name: str) -> list[bytes | None]:
        kind = batch.schema.field(name).type
        if isinstance(kind, pa.BaseExtensionType):  # Ray's tensors, as read_images makes them
            return [_png(value) for chunk in batch[name].chunks for value in chunk.to_numpy(zero_copy_only=False)]
        found: list[bytes | None] = []
        for chunk in batch[name].chunks:
            data, paths = pictures(plain(chunk), kind)
            if any(path is not None and held is None for held, path in zip(data, paths, strict=True)):
                raise ConfigError(f"The column {name!r} names pictures by path: read them into it first.")
            found += data
        return found


def _keep_to_own_cores() -> None:
    """Use only the cores that Ray gave this actor, as a run's replicas do, so that it rounds as they do."""
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cores)))


def _png(pixels: Any) -> bytes:
    """(H, W), (H, W, 3) or (H, W, 4) uint8 pixels as a lossless file."""
    buffer = io.BytesIO()
    try:
        Image.fromarray(np.asarray(pixels)).save(buffer, "PNG", compress_level=1)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"An image's pixels can't be read ({first_line(error)}): give (H, W, 3) uint8.") from error
    return buffer.getvalue()
