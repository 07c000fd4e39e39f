# PYTHON_ARGCOMPLETE_OK
"""The command line: one verb per job.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 finished, but more images failed than allowed.
"""

import argparse
import importlib.util
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from p2pz_ray.arguments import parsed
from p2pz_ray.errors import ConfigError, P2PZError, StoppedError
from p2pz_ray.patience import doing

DONE, FAILED, WRONG, TOO_MANY_FAILED = 0, 1, 2, 3
RETRIED = "P2PZ_RETRIED"
"""Set where failed jobs are tried again: an error that another try can't mend then exits as done, with its message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    _never_fail_to_print()
    given = parsed(sys.argv[1:] if arguments is None else arguments, VERBS)
    _quiet()
    code = _run(given)
    if code in (WRONG, TOO_MANY_FAILED) and os.environ.get(RETRIED):
        return _complain(f"Another try would not help, so the exit code is {DONE} instead of {code}.", DONE)
    return code


def _run(given: argparse.Namespace) -> int:
    verb: Callable[[argparse.Namespace], int] = VERBS[given.verb]
    try:
        return verb(given)
    except ConfigError as error:
        return _complain(str(error), WRONG)
    except StoppedError as error:
        return _complain(str(error), 128 + error.number)
    except P2PZError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("Stopped.", 128 + signal.SIGINT)


def demo(given: argparse.Namespace) -> int:
    from p2pz_ray.jobs import LOADING

    with doing(LOADING):
        from p2pz_ray.demo import demo

    demo(given.out, *([given.count] if given.count else []))
    return DONE


def world(given: argparse.Namespace) -> int:
    from p2pz_ray.mini.dataset import write_world

    edits = tuple(dict.fromkeys(given.edit or ["cat2dog"]))
    uri = write_world(given.out, given.count, given.seed, edits)
    print(f"Wrote {given.count:,} scenes with the truth of {', '.join(edits)}: {uri}")
    return DONE


def direction(given: argparse.Namespace) -> int:
    from p2pz_ray.config import DirectionConfig
    from p2pz_ray.config.given import configuration
    from p2pz_ray.jobs import direction

    path, settings = _split(given.settings)
    config = configuration(path, tuple(settings), DirectionConfig)
    tokens, width = direction(config).embedding.shape
    ends = config.embeddings or config
    print(f"Wrote the direction {ends.source} → {ends.target} ({tokens}×{width}): {config.output}")
    return DONE


def translate(given: argparse.Namespace) -> int:
    from p2pz_ray.config import TranslateConfig
    from p2pz_ray.config.given import configuration
    from p2pz_ray.jobs import translate

    path, settings = _split(given.settings)
    config = configuration(path, tuple(settings), TranslateConfig)
    summary = translate(config)
    print(summary)
    print(f"To look at it: p2pz report {config.output}")
    allowed = config.tolerance.failed_images
    if summary.failed_share > allowed:
        return _complain(
            f"{summary.failed_share:.1%} of the images failed, more than tolerance.failed_images allows "
            f"({allowed:.1%}): see the reasons with p2pz report {config.output}.",
            TOO_MANY_FAILED,
        )
    return DONE


def distill(given: argparse.Namespace) -> int:
    from p2pz_ray.jobs import distill

    path, settings = _split(given.settings)
    print(distill(path, *settings))
    return DONE


def evaluate(given: argparse.Namespace) -> int:
    from p2pz_ray.jobs import evaluate

    path, settings = _split(given.settings)
    print(evaluate(path, *settings))
    return DONE


def plan(given: argparse.Namespace) -> int:
    from p2pz_ray.jobs import plan

    path, settings = _split(given.settings)
    print(plan(path, *settings, measure=given.measure, price=given.price))
    return DONE


def report(given: argparse.Namespace) -> int:
    from p2pz_ray.config.file import storage_options
    from p2pz_ray.report.comparison import write_comparison
    from p2pz_ray.report.report import write_report

    options = storage_options(given.storage_options)
    with doing("Writing the report"):
        if given.other is None:
            written = write_report(given.run, storage_options=options, truth_uri=given.truth, student_uri=given.student)
        else:
            written = write_comparison(given.run, given.other, storage_options=options)
    print(written)
    return DONE


def status(given: argparse.Namespace) -> int:
    from p2pz_ray.config.file import storage_options
    from p2pz_ray.translation.status import status, watch

    options = storage_options(given.storage_options)
    if given.watch:
        watch(given.run, lambda found: print(found.to_json() if given.json else found, flush=True), options)
        return DONE
    found = status(given.run, options)
    print(found.to_json() if given.json else found)
    return DONE


def export(given: argparse.Namespace) -> int:
    from p2pz_ray.config.file import storage_options
    from p2pz_ray.export.job import export

    print(
        export(
            given.run,
            given.out,
            given.format,
            filter=given.filter,
            edit=given.edit,
            instruction=given.prompt or None,
            duplicates=given.duplicates,
            test=given.test,
            seed=given.seed,
            push=given.push,
            storage_options=storage_options(given.storage_options),
        )
    )
    return DONE


def serve(given: argparse.Namespace) -> int:
    from p2pz_ray.config import load
    from p2pz_ray.config.serve import ServeConfig

    config = load(*(_split(given.settings) if given.settings else (None, ())), ServeConfig)
    missing = [name for name in ("fastapi", "mcp") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"Serving needs {' and '.join(missing)}: pip install 'p2pz_ray[serve]'.")
    from p2pz_ray.serving.run import serve

    serve(config)
    return DONE


def submit(given: argparse.Namespace) -> int:
    if given.stop is None and given.follow is None:
        from p2pz_ray.config import DirectionConfig, TranslateConfig, load
        from p2pz_ray.config.distill import DistillConfig
        from p2pz_ray.config.evaluate import EvaluateConfig
        from p2pz_ray.running.reach import check_reaches

        path, overrides = _split(given.settings)
        kinds: dict[str, Any] = {
            "translate": TranslateConfig,
            "direction": DirectionConfig,
            "distill": DistillConfig,
            "evaluate": EvaluateConfig,
        }
        config = load(path, overrides, kinds[given.job])
        check_reaches(config, overrides, Path(given.working_dir))
    from p2pz_ray.running.submit import JobServer

    server = JobServer(given.address)
    if given.stop is not None:
        print(f"Job {given.stop} has ended: {server.stop(given.stop)}.")
        return DONE
    if given.follow is not None:
        return server.follow(given.follow)
    job = server.submit(given.job, path, overrides, Path(given.working_dir))
    print(f"Submitted job {job}.", flush=True)
    if given.no_wait:
        print(server.goes_on(job))
        return DONE
    return server.follow(job)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    verb.__name__: verb
    for verb in (demo, world, direction, translate, evaluate, distill, serve, submit, report, status, plan, export)
}


def _split(settings: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The configuration file, or None where the first argument is already KEY=VALUE, and the overrides."""
    return (None, settings) if "=" in settings[0] else (settings[0], settings[1:])


def _complain(sentence: str, code: int) -> int:
    print(f"p2pz: {sentence}", file=sys.stderr)
    return code


def _never_fail_to_print() -> None:
    """Backslash-escape characters that the terminal or log can't show, such as "→" or a name that isn't UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _quiet() -> None:
    """Silence libraries: their output would bury the one line that matters."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


if __name__ == "__main__":
    sys.exit(main())
