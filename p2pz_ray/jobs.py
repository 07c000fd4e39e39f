"""The jobs, one function each, for a notebook or a program; the command line calls the same.

    summary = p2pz_ray.translate({"input": {"uri": "photos"}, "edits": {…}, "output": "runs/x"})
    summary = p2pz_ray.translate("configs/mini/cat2dog.yaml", "seed=7", on_progress=print)

A configuration is a file's path or URI, a mapping of the same keys, or one that was loaded before. Settings such as
"seed=7" come after it, as on the command line. A Ray that the process is connected to already is used and left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pz_ray.config import DirectionConfig, TranslateConfig
from p2pz_ray.config.given import Given, configuration
from p2pz_ray.patience import doing

if TYPE_CHECKING:
    from p2pz_ray.config.evaluate import EvaluateConfig
    from p2pz_ray.distill.run import Distilled
    from p2pz_ray.editing import EditDirection
    from p2pz_ray.running.progress import Reached
    from p2pz_ray.translation.forecast import Forecast
    from p2pz_ray.translation.run import Summary

LOADING = "Loading PyTorch and Ray"


def translate(config: Given, *settings: str, on_progress: Callable[[Reached], None] | None = None) -> Summary:
    """Translate a collection into a run, or resume a run; returns a summary of the run.

    on_progress: called about twice a second with the progress, instead of a bar; an exception that it raises ends the
    run, and committed partitions stay.

    Raises ConfigError, before Ray starts, where the configuration is wrong; P2PZError where the work can't go on or was
    interrupted. Failed images raise nothing: see `summary.failed_share`.
    """
    found = configuration(config, settings, TranslateConfig)
    with doing(LOADING):
        from p2pz_ray.translation.run import translate as run

    return run(found, on_progress)


def direction(config: Given, *settings: str) -> EditDirection:
    """Make an edit direction and save it. Raises as `translate` does."""
    found = configuration(config, settings, DirectionConfig)
    with doing(LOADING):
        from p2pz_ray.engines.direction import write_direction

    with doing("Making the direction"):
        return write_direction(found)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. metrics: the content of RUN/metrics.json. report: the report's URI, or None."""

    metrics: dict[str, Any]
    report: str | None

    def __str__(self) -> str:
        from p2pz_ray.evaluation.summary import lines

        return "\n".join([*lines(self.metrics), *([self.report] if self.report else [])])


def evaluate(config: Given, *settings: str, say: Callable[[str], None] = print) -> Evaluation:
    """Score the pairs of a run that have no scores yet, and write metrics and report. Raises as `translate` does."""
    found = configuration(config, settings, _evaluate_config())
    with doing(LOADING):
        from p2pz_ray.evaluation.evaluate import evaluate as run
        from p2pz_ray.running.cluster import connected

    with connected(found):
        metrics = run(found, say)
    if not found.report:
        return Evaluation(metrics, None)
    from p2pz_ray.report.report import write_report

    with doing("Writing the report"):
        written = write_report(
            found.run,
            storage_options=found.storage_options,
            truth_uri=found.collection.uri if found.collection and found.metrics.truth else None,
            student_uri=found.student,
            pictures=found.pictures,
        )
    return Evaluation(metrics, str(written))


def distill(config: Given, *settings: str) -> Distilled:
    """Train a student, or resume a training; prints the progress. Raises as `translate` does."""
    from p2pz_ray.distill.job import distill as run

    return run(config, *settings)


def plan(config: Given, *settings: str, measure: int | None = None, price: float | None = None) -> Forecast:
    """A forecast of a translation, without running it: `print` shows it.

    measure: how many images to translate in this process, into a folder that is removed again, to estimate the time.
    price: per replica hour, in any currency. Raises ConfigError where the configuration is wrong.
    """
    found = configuration(config, settings, TranslateConfig)
    with doing(LOADING):
        from p2pz_ray.translation.forecast import forecast

    return forecast(found, measure, price)


def _evaluate_config() -> type[EvaluateConfig]:
    from p2pz_ray.config.evaluate import EvaluateConfig

    return EvaluateConfig
