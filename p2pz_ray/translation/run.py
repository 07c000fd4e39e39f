"""`translate`: from a configuration to a finished run."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass

from p2pz_ray.amount import count
from p2pz_ray.collection.partition import Partition, Plan
from p2pz_ray.collection.reader import read_partition
from p2pz_ray.collection.understood import understood
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig
from p2pz_ray.engines.job import Job
from p2pz_ray.errors import P2PZError, StoppedError
from p2pz_ray.patience import doing
from p2pz_ray.running.progress import Progress, Reached, duration
from p2pz_ray.running.stop import interruptible
from p2pz_ray.storage.failure import StorageError
from p2pz_ray.translation.ingredients import Ingredients, Wanted, found_here
from p2pz_ray.translation.pairs import Pairs
from p2pz_ray.translation.prepare import prepare

SEAL_EVERY = 10_000
"""Number of commits after which all manifests are written to one file again."""


@dataclass(frozen=True)
class Summary:
    """The summary of a finished run, as recorded in `_SUCCESS`.

    rows, ok, failed, flagged: pairs; images: of the collection. seconds: from the first partition begun to the last
    committed, pauses between drivers included. fresh: False where the run was finished before.
    """

    output: str
    images: int
    rows: int
    ok: int
    failed: int
    seconds: float
    fresh: bool = True
    flagged: int = 0

    @property
    def failed_share(self) -> float:
        """The share of images, or of pairs, which is the same: an image fails under all edits or under none."""
        return self.failed / max(1, self.rows)

    def __str__(self) -> str:
        pairs = f"{count(self.rows, 'pair')} of {count(self.images, 'image')}: {self.ok:,} ok, {self.failed:,} failed"
        if self.flagged:
            pairs += f", {self.flagged:,} flagged"
        if not self.fresh:
            return f"{self.output} is finished already, so there was nothing to do ({pairs})."
        return f"{self.output}: {pairs}, in {duration(self.seconds)}."


def translate(config: TranslateConfig, on_progress: Callable[[Reached], None] | None = None) -> Summary:
    """Translate a collection into a run, or resume a run. `on_progress` is called with the progress, instead of a bar.

    Raises ConfigError for a wrong configuration, if possible before Ray starts and always before any replica does;
    P2PZError if the run can't go on or was interrupted: the same call then resumes from the last commit.
    """
    with ExitStack() as while_running:

        def find(wanted: Wanted) -> Ingredients:
            from p2pz_ray.running.cluster import connected  # Ray is imported only after all other checks
            from p2pz_ray.running.errand import run_errand

            while_running.enter_context(connected(config))
            with doing("Making the directions"):
                found: Ingredients = run_errand(config, found_here, wanted, config.device)
            return found

        prepared = prepare(config, find)
        if prepared is None:
            folder = RunFolder(config.output, config.output_storage_options)
            folder.sweep()
            return _recorded(folder, config.output)
        job, plan = prepared
        folder = job.folder
        manifests = folder.manifests(plan.ids, job.fingerprint)
        left = [partition for partition in plan.partitions if partition.id not in manifests]
        if left:
            _work(job, plan, left, manifests, on_progress)
    summary = _summary(config.output, plan, manifests)
    folder.finish(plan, {key: value for key, value in asdict(summary).items() if key not in ("output", "fresh")})
    return summary


def _work(
    job: Job,
    plan: Plan,
    left: list[Partition],
    manifests: dict[str, Manifest],
    on_progress: Callable[[Reached], None] | None,
) -> None:
    """Translate the remaining partitions, adding their manifests."""
    import ray

    from p2pz_ray.running.cluster import connected, lacking
    from p2pz_ray.running.metrics import DriverMetrics
    from p2pz_ray.running.pool import Pool
    from p2pz_ray.translation.replica import replicas

    folder = job.folder
    folder.seal(manifests)

    def done(manifest: Manifest) -> None:
        manifests[manifest.partition] = manifest
        if len(manifests) % SEAL_EVERY == 0:
            with suppress(StorageError):  # each manifest also exists by itself
                folder.seal(manifests)

    with connected(job.config), interruptible() as asked:  # Ray sets signal handlers too: ours come after
        progress = Progress(
            plan.images,
            sum(manifest.images for manifest in manifests.values()),
            sum(manifest.failed for manifest in manifests.values()) // len(job.config.edits),
            on_progress=on_progress,
        )
        actors = replicas(job, len(left))
        given = job.config.input
        with suppress(P2PZError):  # a table that is gone since the run was begun is its partitions' matter
            progress.say(str(understood(given.uri, plan, job.columns, given.storage_options)))
        begun = f", {len(manifests)} of them done before" if manifests else ""
        progress.say(
            f"{count(plan.images, 'image')} in {count(len(plan.partitions), 'partition')}{begun}; "
            f"{count(len(actors), 'replica')} {'is' if len(actors) == 1 else 'are'} loading the model."
        )
        pool = Pool(
            actors,
            job.config.replicas,
            lambda partition, sentence: quarantine(job, partition, sentence),
            progress,
            DriverMetrics(job.config.output),
            lambda: lacking(job.config),
        )
        asked.call = pool.stop
        try:
            pool.run(left, done)
        except KeyboardInterrupt:
            raise StoppedError(
                f"Stopped with {len(manifests):,} of {count(len(plan.partitions), 'partition')} done: "
                "the same command goes on from there.",
                asked.number,
            ) from None
        finally:
            progress.close()
            for actor in actors:  # a notebook that keeps the error keeps the actors too, and their GPUs
                with suppress(Exception):
                    ray.kill(actor, no_restart=True)


def quarantine(job: Job, partition: Partition, sentence: str) -> Manifest:
    """Commit a partition as error rows only, with this sentence."""
    started = time.time()
    pairs = Pairs.of(job.config)
    for row, id in enumerate(_ids(job, partition)):
        pairs.fail(row, id, sentence)
    return job.folder.commit(
        partition.id,
        pairs.to_parquet({"p2pz_ray.fingerprint": job.fingerprint}),
        images=pairs.images,
        rows=pairs.images * len(job.config.edits),
        failed=pairs.failed,
        fingerprint=job.fingerprint,
        started=started,
    )


def _ids(job: Job, partition: Partition) -> list[str]:
    """The ids of a partition's rows, read in a process that may crash."""
    import ray

    def read() -> list[str]:
        given = job.config.input
        items = read_partition(
            given.uri, partition, job.columns, given.storage_options, job.config.image.max_bytes, given.follow
        )
        return [item.id for item in items]

    try:
        return list(ray.get(ray.remote(read).options(num_cpus=0, max_retries=1).remote()))
    except ray.exceptions.RayError:
        # Reading itself may crash the process. Then the rows are known only by number.
        return [f"{partition.id}#{row}" for row in range(partition.rows)]


def _summary(output: str, plan: Plan, manifests: dict[str, Manifest]) -> Summary:
    of = list(manifests.values())
    return Summary(
        output=output,
        images=plan.images,
        rows=sum(manifest.rows for manifest in of),
        ok=sum(manifest.ok for manifest in of),
        failed=sum(manifest.failed for manifest in of),
        flagged=sum(manifest.flagged for manifest in of),
        seconds=round(max(m.finished for m in of) - min(m.started for m in of), 1),
    )


def _recorded(folder: RunFolder, output: str) -> Summary:
    return Summary(output=output, fresh=False, **(folder.summary() or {}))
