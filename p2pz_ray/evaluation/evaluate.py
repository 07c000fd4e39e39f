"""`p2pz evaluate`: the partitions of a run, finished or not, scored by Ray actors; then metrics.json and the report."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from p2pz_ray.collection.manifest import Manifest
from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.evaluation.config import EvaluateConfig
from p2pz_ray.evaluation.run import Run
from p2pz_ray.evaluation.scorer import COLUMNS, Scorer
from p2pz_ray.evaluation.scores import ScoreFolder, fingerprint
from p2pz_ray.evaluation.summary import METRICS, ScoreTable, summarize
from p2pz_ray.evaluation.tally import Tally


class ScoringReplica:
    """A Ray actor: the metrics' models, loaded once, and the partitions that are handed to it."""

    def __init__(self, config: EvaluateConfig, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._config = config
        self._scorer: Scorer | None = None

    def score(self, manifest: Manifest) -> int:
        """Score a partition and put its scores; returns its rows. Pictures never leave this process."""
        run = Run(self._config.run, self._config.storage_options)
        if self._scorer is None:
            self._scorer = scorer(self._config, run)
        return score_partition(self._scorer, run, manifest)


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Score what is committed of a run and isn't scored yet, and write RUN/metrics.json, which is returned.

    Ray must be connected. Raises ConfigError for no run, or a model or collection that isn't there; P2PZError where
    a partition can't be scored.
    """
    run = Run(config.run, config.storage_options)
    folder = ScoreFolder(run.store)
    left = folder.missing(run.manifests, fingerprint(config))
    if left:
        scorer(config, run)  # what is wrong with the configuration is said here, and once
        say(f"Scoring {len(left):,} of {len(run.manifests):,} partitions")
        _work_off(config, left, say)
    folder.sweep(run.manifests)
    found = summarize(run, ScoreTable(run), Tally(run))
    run.folder.write_json(METRICS, found)
    return found


def scorer(config: EvaluateConfig, run: Run) -> Scorer:
    """The metrics of a configuration for a run."""
    edits = {name: edit for name, edit in (run.config.get("edits") or {}).items() if isinstance(edit, dict)}
    fit = (run.config.get("image") or {}).get("fit", "crop")
    return Scorer(config, edits, fit)


def score_partition(made: Scorer, run: Run, manifest: Manifest) -> int:
    """Score a partition of a run and put its scores; returns its rows."""
    rows = [row for batch in run.batches(manifest, COLUMNS) for row in batch.to_pylist()]
    scores, unreadable = made.score(rows)
    keys = [(row["id"], row["edit"]) for row in rows]
    ScoreFolder(run.store).write(manifest, fingerprint(made.config), keys, scores, made.columns, unreadable)
    return len(rows)


def _work_off(config: EvaluateConfig, manifests: Sequence[Manifest], say: Callable[[str], None]) -> None:
    """Hand partitions to replicas; one that kills its replica again and again ends the job."""
    wanted, waiting = config.replicas, deque(manifests)
    gpus = wanted.gpus
    if gpus is None:
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        gpus = 1.0 if config.device == "cuda" or (config.device == "auto" and has_gpus) else 0.0
    # A lost replica is replaced here: work handed to one that Ray is just restarting would be lost again.
    actor = ray.remote(ScoringReplica).options(num_cpus=wanted.cpus, num_gpus=gpus, max_restarts=0)
    threads = max(1, int(wanted.cpus))
    replicas = [actor.remote(config, threads) for _ in range(min(wanted.bounds[1], len(manifests)))]
    busy: dict[Any, tuple[Any, Manifest]] = {}
    losses: Counter[str] = Counter()
    done = 0
    try:
        idle = list(replicas)
        while waiting or busy:
            while waiting and idle:
                replica, manifest = idle.pop(), waiting.popleft()
                busy[replica.score.remote(manifest)] = (replica, manifest)
            [ref], _ = ray.wait(list(busy), num_returns=1)
            replica, manifest = busy.pop(ref)
            try:
                ray.get(ref)
                idle.append(replica)
            except RayActorError as error:
                losses[manifest.partition] += 1
                if losses[manifest.partition] > wanted.max_task_retries:
                    raise P2PZError(
                        f"{manifest.file} ended its replica {losses[manifest.partition]} times "
                        f"({first_line(error)}): see Ray's logs, and try a smaller batch_size."
                    ) from error
                waiting.append(manifest)
                replicas.remove(replica)
                replicas.append(actor.remote(config, threads))
                idle.append(replicas[-1])
                continue
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, ConfigError | P2PZError):
                    raise cause from None
                raise P2PZError(f"{manifest.file} can't be scored: {first_line(cause)}.") from error
            done += 1
            if done % max(1, len(manifests) // 10) == 0 or done == len(manifests):
                say(f"  {done:,} of {len(manifests):,} partitions")
    finally:
        for replica in replicas:
            ray.kill(replica)
