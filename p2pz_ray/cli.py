"""The command line: one verb a job.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 finished, but more images failed than allowed.
"""

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from p2pz_ray import __version__
from p2pz_ray.errors import ConfigError, P2PZError

DONE, FAILED, WRONG, TOO_MANY_FAILED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    given = _parsed(arguments)
    _quiet()
    verb: Callable[[argparse.Namespace], int] = given.verb
    try:
        return verb(given)
    except ConfigError as error:
        return _complain(str(error), WRONG)
    except P2PZError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("Stopped.", FAILED)


def demo(given: argparse.Namespace) -> int:
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
    from p2pz_ray.config import DirectionConfig, load

    config = load(*_split(given.settings), DirectionConfig)
    from p2pz_ray.running.direction import write_direction

    made = write_direction(config)
    tokens, width = made.embedding.shape
    ends = config.embeddings or config
    print(f"Wrote the direction {ends.source} → {ends.target} ({tokens}×{width}): {config.output}")
    return DONE


def translate(given: argparse.Namespace) -> int:
    from p2pz_ray.config import TranslateConfig, load

    config = load(*_split(given.settings), TranslateConfig)
    from p2pz_ray.running.run import translate

    summary = translate(config)
    print(summary)
    allowed = config.tolerance.failed_images
    if summary.failed_share > allowed:
        return _complain(
            f"{summary.failed_share:.1%} of the images failed, more than tolerance.failed_images allows "
            f"({allowed:.1%}): see their sentences with p2pz report {config.output}.",
            TOO_MANY_FAILED,
        )
    return DONE


def distill(given: argparse.Namespace) -> int:
    from p2pz_ray.config import load
    from p2pz_ray.distill.config import DistillConfig

    config = load(*_split(given.settings), DistillConfig)
    from p2pz_ray.distill.run import distill

    print(distill(config))
    return DONE


def evaluate(given: argparse.Namespace) -> int:
    from p2pz_ray.config import load
    from p2pz_ray.evaluation.config import EvaluateConfig

    config = load(*_split(given.settings), EvaluateConfig)
    from p2pz_ray.evaluation.evaluate import evaluate
    from p2pz_ray.evaluation.summary import lines
    from p2pz_ray.running.cluster import connected

    with connected(config):
        found = evaluate(config)
    print("\n".join(lines(found)))
    if config.report:
        from p2pz_ray.evaluation.report import write_report

        truth = config.collection.uri if config.collection and config.metrics.truth else None
        written = write_report(
            config.run,
            storage_options=config.storage_options,
            truth_uri=truth,
            student_uri=config.student,
            pictures=config.pictures,
        )
        print(written)
    return DONE


def report(given: argparse.Namespace) -> int:
    from p2pz_ray.evaluation.compare import write_comparison
    from p2pz_ray.evaluation.report import write_report

    if given.other is None:
        print(write_report(given.run, truth_uri=given.truth, student_uri=given.student))
    else:
        print(write_comparison(given.run, given.other))
    return DONE


def status(given: argparse.Namespace) -> int:
    from p2pz_ray.running.status import status

    print(status(given.run))
    return DONE


def serve(given: argparse.Namespace) -> int:
    from p2pz_ray.config import load
    from p2pz_ray.serving.config import ServeConfig

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
        from p2pz_ray.distill.config import DistillConfig
        from p2pz_ray.evaluation.config import EvaluateConfig

        path, overrides = _split(given.settings)
        kinds: dict[str, Any] = {
            "translate": TranslateConfig,
            "direction": DirectionConfig,
            "distill": DistillConfig,
            "evaluate": EvaluateConfig,
        }
        _check_reaches(load(path, overrides, kinds[given.job]), overrides)
    from p2pz_ray.running.submit import JobServer

    server = JobServer(given.address)
    if given.stop is not None:
        print(f"Job {given.stop} has ended: {server.stop(given.stop)}.")
        return DONE
    if given.follow is not None:
        return server.follow(given.follow)
    job = server.submit(given.job, path, overrides, Path(given.working_dir))
    print(f"Job {job} is on its way.", flush=True)
    if given.no_wait:
        print(server.goes_on(job))
        return DONE
    return server.follow(job)


def _check_reaches(config: Any, overrides: Sequence[str]) -> None:
    """Raise ConfigError for what another machine can't reach or shouldn't be told."""
    named = [(key, uri) for key in ("output", "run", "student") if (uri := getattr(config, key, None)) is not None]
    for key in ("input", "collection"):
        if getattr(config, key, None) is not None:
            named.append((f"{key}.uri", getattr(config, key).uri))
    if hasattr(config, "pairs"):
        named += [(f"pairs.{kind}", uri) for kind in ("runs", "tables") for uri in getattr(config.pairs, kind)]
    for key, uri in named:
        if "://" not in uri and not os.path.isabs(uri):
            raise ConfigError(
                f"{key} is {uri}, which on the cluster would lie in the job's own folder and go with it: give a URI, "
                "or a full path that all its machines share."
            )
    if any("storage_options" in override for override in overrides):
        raise ConfigError(
            "storage_options on the command line would stand in the cluster's list of jobs and in its logs: give its "
            "machines the rights themselves, or write them into the configuration file."
        )


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes settings from one place alone: those that stand behind an option are added here."""
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(given, "settings") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if hasattr(given, "settings"):
        given.settings += rest
    if given.verb is submit and (bool(given.settings) + (given.stop is not None) + (given.follow is not None)) != 1:
        parser.error("submit takes a configuration, or --follow ID, or --stop ID")
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="p2pz", description="Translate whole image collections with pix2pix-zero, on Ray.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"p2pz {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        adding = verbs.add_parser(run.__name__, help=help, description=help, allow_abbrev=False)
        adding.set_defaults(verb=run)
        return adding

    adding = verb(demo, "the whole way on the embedded miniature, offline, on this machine")
    adding.add_argument("--out", default="demo", help="folder for the collection, the run and the report")
    adding.add_argument("--count", type=_positive, help="how many images")

    adding = verb(world, "write a collection of miniature scenes, with truth")
    adding.add_argument("out", metavar="OUT", help="folder or URI of the collection")
    adding.add_argument("--count", type=_positive, required=True, help="how many scenes")
    adding.add_argument("--seed", type=int, default=0)
    adding.add_argument("--edit", action="append", help="KIND2KIND, such as cat2dog; may be given several times")

    for run, help in (
        (direction, "two words → a direction file"),
        (translate, "a collection → a run of pairs; goes on with a run that was begun"),
        (evaluate, "a run, finished or not → scores, metrics.json and a report; scores what isn't scored yet"),
        (distill, "pairs → a student, which edits in one pass; goes on with a training that was begun"),
    ):
        adding = verb(run, help)
        adding.add_argument(
            "settings",
            nargs="+",
            metavar="CONFIG or KEY=VALUE",
            help="a YAML file, then settings such as seed=7 or input.uri=FOLDER; the file may be left out",
        )

    adding = verb(serve, "a page, an API and an assistants' endpoint, until Ctrl-C; without settings, of the miniature")
    adding.add_argument(
        "settings",
        nargs="*",
        metavar="CONFIG or KEY=VALUE",
        help="a YAML file, then settings such as port=8080 or students=[FOLDER]; both may be left out",
    )

    adding = verb(submit, "send a job to a Ray cluster and follow its log; ends with the job's exit code")
    adding.add_argument("settings", nargs="*", metavar="CONFIG or KEY=VALUE", help="as the job itself takes them")
    adding.add_argument("--address", required=True, metavar="URL", help="of the dashboard: http://127.0.0.1:8265")
    adding.add_argument(
        "--job",
        default="translate",
        choices=["translate", "direction", "distill", "evaluate"],
        help="default: translate",
    )
    adding.add_argument("--working-dir", default=".", metavar="DIR", help="the folder to send; default: this one")
    adding.add_argument("--no-wait", action="store_true", help="don't follow the log")
    adding.add_argument("--follow", metavar="ID", help="follow a job that was sent before")
    adding.add_argument("--stop", metavar="ID", help="stop a job: what is done stays, and the job sent again goes on")

    adding = verb(report, "write RUN/report/index.html, for a run finished or not")
    adding.add_argument("run", metavar="RUN")
    adding.add_argument("other", metavar="RUN", nargs="?", help="a second run: compare the two pair by pair instead")
    adding.add_argument("--truth", metavar="URI", help="the miniature collection that the run was made of")
    adding.add_argument(
        "--student", metavar="RUN", help="a run whose edits of the same images are shown as a student's"
    )

    adding = verb(status, "how a run stands, from its manifests")
    adding.add_argument("run", metavar="RUN")
    return parser


def _split(settings: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The configuration file, if the first setting is none, and the overrides."""
    return (None, settings) if "=" in settings[0] else (settings[0], settings[1:])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _complain(sentence: str, code: int) -> int:
    print(f"p2pz: {sentence}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Libraries' own chatter would bury the one line that matters."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


if __name__ == "__main__":
    sys.exit(main())
