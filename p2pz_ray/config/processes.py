"""The processes that do a job's work, and how much of it may fail."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from p2pz_ray.config.section import Amount, Count, Natural, Section, Share, Text


class Processes(Section):
    """Processes on a cluster: `count` of them, or between `min` and `max`, as the cluster has room."""

    count: Count | None = None
    min: Count | None = None
    max: Count | None = None
    cpus: Amount = 1.0  # per process
    gpus: Amount | None = None  # per process; null: one where device is cuda, or auto in a cluster with GPUs

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.count is not None and (self.min is not None or self.max is not None):
            raise ValueError("has count together with min or max: keep count, or min and max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"has min {self.min} above max {self.max}: swap them")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most to run."""
        if self.count is not None:
            return self.count, self.count
        fewest = self.min or 1
        return fewest, self.max or fewest


class ReplicasConfig(Processes):
    """The Ray actors that hold a model each."""

    max_restarts: Annotated[int, Field(ge=-1)] = -1  # per replica; -1 is without limit
    max_task_retries: Natural = 2  # retries of a partition that killed its replica
    in_flight: Count = 2  # partitions assigned to a replica at a time
    deadline: Annotated[float, Field(gt=0)] = 3600.0  # seconds without a finished batch after which a replica restarts


class ToleranceConfig(Section):
    """How much of a run may fail."""

    failed_images: Share = 0.01  # share of all images


class RayConfig(Section):
    """Where Ray is."""

    address: Text | None = None  # null starts Ray on this machine, unless the environment names a cluster
