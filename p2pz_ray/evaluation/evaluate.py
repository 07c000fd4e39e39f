"""`p2pz evaluate`: the partitions of a run, finished or not, scored by Ray actors; then metrics.json and the report."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.commit.run import Run
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.errors import P2PZError, StoppedError
from p2pz_ray.evaluation.scorer import COLUMNS, Scorer
from p2pz_ray.evaluation.scores import ScoreFolder, fingerprint
from p2pz_ray.evaluation.summary import METRICS, summarize, sums_of
from p2pz_ray.evaluation.sums import Sums
from p2pz_ray.evaluation.tally import Tally
from p2pz_ray.running.cluster import check_gpu, gpus, lacking
from p2pz_ray.running.metrics import DriverMetrics
from p2pz_ray.running.pool import Pool
from p2pz_ray.running.progress import Progress
from p2pz_ray.running.stop import interruptible


@dataclass(frozen=True)
class Unscored:
    """A partition of a run that has no scores yet: the unit of work for a replica."""

    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.partition

    def whole(self) -> "Unscored":
        return self


@dataclass(frozen=True)
class Scored:
    """The sums of a partition's scores. images, rows: its pairs; failed: those whose pictures can't be read."""

    sums: Sums

    @property
    def images(self) -> int:
        return self.sums.rows

    rows = images

    @property
    def failed(self) -> int:
        return self.sums.unreadable


class ScoringReplica:
    """A Ray actor that loads the metrics' models once and scores partitions."""

    def __init__(self, config: EvaluateConfig, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._config = config
        self._made: tuple[Run, Scorer] | None = None

    @ray.method(max_task_retries=1)
    def load(self) -> dict[str, Any]:
        """Load the metrics, unless they are loaded; returns the node it runs on."""
        here = ray.get_runtime_context()
        if self._made is None:
            check_gpu(here.get_accelerator_ids().get("GPU", []), self._config.device)
            run = Run(self._config.run, self._config.storage_options, manifests=())
            self._made = run, scorer(self._config, run)
        return {"node": here.get_node_id()}

    def score(self, work: Unscored) -> Scored:
        """Score a partition and write its scores; returns their sums. Pictures never leave this process."""
        self.load()
        assert self._made is not None
        run, made = self._made
        return Scored(score_partition(made, run, work.manifest))

    @ray.method(concurrency_group="watch")
    def underway(self) -> int:
        """Shows that it is alive; progress within a partition is not counted."""
        return 0


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Score the committed partitions of a run that have no scores yet, then write and return RUN/metrics.json.

    Ray must be connected. Raises ConfigError if the run, a model or a collection is missing; P2PZError if a partition
    can't be scored.
    """
    run = Run(config.run, config.storage_options)
    folder = ScoreFolder(run.store)
    left = folder.missing(run.manifests, fingerprint(config))
    missing = {manifest.partition for manifest in left}
    sums = sums_of(run, [manifest for manifest in run.manifests if manifest.partition not in missing])
    if left:
        scorer(config, run)  # raises what is wrong with the configuration here, once
        say(f"Scoring {len(left):,} of {len(run.manifests):,} partitions")
        _work_off(config, left, lambda scored: sums.add(scored.sums))
    folder.sweep(run.manifests)
    found = summarize(run, sums, Tally(run))
    run.folder.write_json(METRICS, found)
    return found


def scorer(config: EvaluateConfig, run: Run) -> Scorer:
    """The metrics of a configuration for a run."""
    edits = {name: edit for name, edit in (run.config.get("edits") or {}).items() if isinstance(edit, dict)}
    fit = (run.config.get("image") or {}).get("fit", "crop")
    return Scorer(config, edits, fit)


def score_partition(made: Scorer, run: Run, manifest: Manifest) -> Sums:
    """Score a partition of a run and write its scores; returns their sums."""
    rows = [row for batch in run.batches(manifest, COLUMNS) for row in batch.to_pylist()]
    scores, unreadable = made.score(rows)
    keys = [(row["id"], row["edit"]) for row in rows]
    folder = ScoreFolder(run.store)
    table = folder.write(manifest, fingerprint(made.config), keys, scores, made.columns, unreadable)
    return Sums.of(manifest.partition, table)


def _work_off(config: EvaluateConfig, manifests: Sequence[Manifest], done: Callable[[Scored], None]) -> None:
    """Have replicas score partitions; `done` is called with the sums of each."""
    wanted = config.replicas
    actor = ray.remote(concurrency_groups={"watch": 1})(ScoringReplica).options(
        num_cpus=wanted.cpus, num_gpus=gpus(config), max_restarts=wanted.max_restarts, max_task_retries=0
    )
    many = min(wanted.bounds[1], len(manifests))
    actors = [actor.remote(config, max(1, int(wanted.cpus))) for _ in range(many)]
    progress = Progress(sum(manifest.rows for manifest in manifests), 0, 0)
    metrics = DriverMetrics(config.run)
    pool = Pool(actors, wanted, _deadly, progress, metrics, lambda: lacking(config), task="score")
    with interruptible() as asked:
        asked.call = pool.stop
        try:
            pool.run([Unscored(manifest) for manifest in manifests], done)
        except KeyboardInterrupt:
            raise StoppedError("Stopped: the same command goes on from there.", asked.number) from None
        finally:
            progress.close()
            for each in actors:
                with suppress(Exception):
                    ray.kill(each, no_restart=True)


def _deadly(work: Unscored, sentence: str) -> Scored:
    """Ends the job for a partition that keeps killing its replica: scores have no error rows."""
    raise P2PZError(f"{work.manifest.file} can't be scored. {sentence} See Ray's logs, and try a smaller batch_size.")
