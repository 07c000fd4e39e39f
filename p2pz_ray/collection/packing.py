"""Pieces of a collection packed into partitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from p2pz_ray.collection.partition import Kind, Partition, Source


def ranges_of(piece: Source, per_partition: int) -> Iterator[Source]:
    """A piece as ranges of nearly equal length, each near the rows of a partition."""
    parts = max(1, round(piece.rows / per_partition))
    for i in range(parts):
        yield replace(piece, start=piece.rows * i // parts, stop=piece.rows * (i + 1) // parts)


def packed(sources: Iterable[Source], per_partition: int) -> Iterator[list[Source]]:
    """Neighbouring sources grouped together, up to the rows of a partition."""
    pack: list[Source] = []
    rows = 0
    for source in sources:
        if pack and rows + source.rows > per_partition:
            yield pack
            pack, rows = [], 0
        pack.append(source)
        rows += source.rows
    if pack:
        yield pack


def partitions_of(
    kind: Kind, packs: Iterable[list[Source]], renamed: dict[int, str], first: int = 0
) -> list[Partition]:
    """The packs as partitions; `first` is the collection's row at which they begin."""
    partitions = []
    for pack in packs:
        stop = first + sum(source.rows for source in pack)
        inside = [(row - first, renamed[row]) for row in range(first, stop) if row in renamed] if renamed else []
        partitions.append(Partition.of(kind, pack, inside))
        first = stop
    return partitions
