"""The queue of partitions, in runs of neighbours, so that a replica goes on reading where it stopped."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Protocol

from p2pz_ray.collection.partition import Partition


class Work(Protocol):
    """A unit of work: a partition, or anything else with an id."""

    @property
    def id(self) -> str: ...
    def whole(self) -> Any:
        """This work, with everything that a replica needs. Raises StorageError if that can't be read."""


class Backlog:
    """Partitions that no replica has. A replica that takes one gets its neighbour next, until that run of neighbours is
    done or, near the end, split with others."""

    def __init__(self, partitions: Iterable[Work] = ()) -> None:
        self._stretches = deque(_stretches(partitions))
        self._own: dict[Hashable, deque[Work]] = {}  # taker → the rest of its run of neighbours
        self._ids = {partition.id for stretch in self._stretches for partition in stretch}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def take(self, taker: Hashable) -> Work:
        """The next partition for `taker`. Raises LookupError if there is none."""
        while self._ids:
            if not self._own.get(taker):
                self._own[taker] = self._stretch()
            partition = self._own[taker].popleft()
            if partition.id in self._ids:
                self._ids.remove(partition.id)
                return partition
        raise LookupError("no partition waits")

    def put(self, partition: Work, soon: bool = False) -> None:
        """Add a partition, at the end or, if `soon`, at the front."""
        self._ids.add(partition.id)
        (self._stretches.appendleft if soon else self._stretches.append)(deque([partition]))

    def discard(self, id: str) -> None:
        """Remove a partition that is done."""
        self._ids.discard(id)

    def _stretch(self) -> deque[Work]:
        """A run of neighbours that nobody has begun, or the second half of the longest that somebody has."""
        if self._stretches:
            return self._stretches.popleft()
        longest = max(self._own.values(), key=len)
        half = [longest.pop() for _ in range((len(longest) + 1) // 2)]
        return deque(reversed(half))


def _stretches(partitions: Iterable[Work]) -> Iterator[deque[Work]]:
    stretch: deque[Work] = deque()
    for partition in partitions:
        if stretch and not _goes_on(stretch[-1], partition):
            yield stretch
            stretch = deque()
        stretch.append(partition)
    if stretch:
        yield stretch


def _goes_on(first: Work, second: Work) -> bool:
    """Whether the second partition is best read after the first, by the same replica: both have rows of one row group,
    or of one Arrow file, which may be a stream without an index, so another reader would read the same bytes again."""
    if not isinstance(first, Partition) or not isinstance(second, Partition) or first.kind in ("files", "captioned"):
        return False
    before, after = first.sources[-1], second.sources[0]
    if before.path != after.path:
        return False
    return first.kind == "arrow" or before.piece == after.piece
