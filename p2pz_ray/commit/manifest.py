"""The manifest of one committed partition."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Manifest:
    """The record of one committed partition.

    file: relative to the run's folder. images: rows of the collection. rows, ok, failed, flagged: pairs.
    sha256: of the file. fingerprint: of the configuration and its ingredients.
    started, finished: seconds since 1970. seconds: where the time went, by stage. replica: the process that made it,
    as MACHINE:PID, "" for the driver; device, dtype: of its model.
    """

    partition: str
    attempt: str
    file: str
    images: int
    rows: int
    ok: int
    failed: int
    sha256: str
    fingerprint: str
    started: float
    finished: float
    seconds: dict[str, float] = field(default_factory=dict)
    replica: str = ""
    device: str = ""
    dtype: str = ""
    flagged: int = 0
