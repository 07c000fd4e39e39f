# PYTHON_ARGCOMPLETE_OK
"""The command line: one verb a job.

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

from p2pz_ray import __version__
from p2pz_ray.errors import ConfigError, P2PZError, StoppedError

FORMATS = ("webdataset", "imagefolder", "instructpix2pix", "img2img-turbo", "parquet")
_DUPLICATES = "of sources closer than so many grey levels keep the first; 0 keeps all; default: 1"
DONE, FAILED, WRONG, TOO_MANY_FAILED = 0, 1, 2, 3
RETRIED = "P2PZ_RETRIED"
"""Set where a job that fails is tried again: what no further try can mend then ends as done, with its sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    _never_fail_to_print()
    given = _parsed(arguments)
    _quiet()
    code = _run(given)
    if code in (WRONG, TOO_MANY_FAILED) and os.environ.get(RETRIED):
        return _complain(f"Another try could not mend that, so exit code {code} is given as {DONE}.", DONE)
    return code


def _run(given: argparse.Namespace) -> int:
    verb: Callable[[argparse.Namespace], int] = given.verb
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
    from p2pz_ray.jobs import direction

    config = load(*_split(given.settings), DirectionConfig)
    tokens, width = direction(config).embedding.shape
    ends = config.embeddings or config
    print(f"Wrote the direction {ends.source} → {ends.target} ({tokens}×{width}): {config.output}")
    return DONE


def translate(given: argparse.Namespace) -> int:
    from p2pz_ray.config import TranslateConfig, load
    from p2pz_ray.jobs import translate

    config = load(*_split(given.settings), TranslateConfig)
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
    from p2pz_ray.config_file import storage_options
    from p2pz_ray.evaluation.compare import write_comparison
    from p2pz_ray.evaluation.report import write_report

    options = storage_options(given.storage_options)
    if given.other is None:
        print(write_report(given.run, storage_options=options, truth_uri=given.truth, student_uri=given.student))
    else:
        print(write_comparison(given.run, given.other, storage_options=options))
    return DONE


def status(given: argparse.Namespace) -> int:
    from p2pz_ray.config_file import storage_options
    from p2pz_ray.running.status import status, watch

    options = storage_options(given.storage_options)
    if given.watch:
        watch(given.run, lambda found: print(found.to_json() if given.json else found, flush=True), options)
        return DONE
    found = status(given.run, options)
    print(found.to_json() if given.json else found)
    return DONE


def export(given: argparse.Namespace) -> int:
    from p2pz_ray.config_file import storage_options
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
    print(f"Job {job} is on its way.", flush=True)
    if given.no_wait:
        print(server.goes_on(job))
        return DONE
    return server.follow(job)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes settings from one place alone: those that stand behind an option are added here."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how a line goes on; pip install 'p2pz_ray[completion]'
        import argcomplete

        argcomplete.autocomplete(parser)
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
    _with_storage(adding)

    adding = verb(status, "how a run stands, from its manifests")
    adding.add_argument("run", metavar="RUN")
    adding.add_argument("--watch", action="store_true", help="again whenever something was committed, until it ends")
    adding.add_argument("--json", action="store_true", help="as a JSON object a line")
    _with_storage(adding)

    adding = verb(plan, "what a translation would do: images, partitions, requests; with --measure hours and cost")
    adding.add_argument("settings", nargs="+", metavar="CONFIG or KEY=VALUE", help="as translate takes them")
    adding.add_argument("--measure", type=_positive, metavar="N", help="translate N images here, to learn how fast")
    adding.add_argument("--price", type=float, metavar="PRICE", help="of a replica's hour; with --measure")

    adding = verb(export, "a run's kept pairs in the form that another project's trainer reads")
    adding.add_argument("run", metavar="RUN")
    adding.add_argument("out", metavar="OUT", help="folder or URI")
    adding.add_argument("--format", choices=FORMATS, required=True)
    adding.add_argument("--filter", help="a condition over the columns of the scores, such as 'mask_overlap >= 0.7'")
    adding.add_argument("--edit", help="which, where the run has several; default: all")
    adding.add_argument(
        "--prompt", action="append", metavar="TEXT", help="of a pair; {source}, {target}, {a_target}; may be repeated"
    )
    adding.add_argument("--duplicates", type=float, default=1.0, metavar="LEVELS", help=_DUPLICATES)
    adding.add_argument("--test", type=float, default=0.1, metavar="SHARE", help="of the source pictures; default: 0.1")
    adding.add_argument("--seed", type=int, default=0, help="of the choice among several prompts")
    adding.add_argument("--push", metavar="hf://datasets/OWNER/NAME", help="send it to the hub, as one commit")
    _with_storage(adding)
    return parser


def _with_storage(adding: argparse.ArgumentParser) -> None:
    adding.add_argument(
        "--storage-options",
        metavar="FILE",
        default=os.environ.get("P2PZ_STORAGE_OPTIONS"),
        help="YAML of what fsspec is handed for the run's storage; default: the file that P2PZ_STORAGE_OPTIONS names",
    )


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


def _never_fail_to_print() -> None:
    """What a terminal or a log file can't show, such as "→" or a name that isn't UTF-8, is backslash-escaped there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
