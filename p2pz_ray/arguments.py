"""The command line's arguments: its verbs with their options, examples and keys."""

import argparse
import difflib
import os
import shutil
import sys
from collections.abc import Collection, Sequence

from p2pz_ray.version import __version__

FORMATS = ("webdataset", "imagefolder", "instructpix2pix", "img2img-turbo", "parquet")
_DUPLICATES = "keep only the first of sources that are closer than this many grey levels; 0 keeps all; default: 1"
_OVERVIEW = """\
p2pz translates whole image collections with pix2pix-zero: every cat becomes a dog that sits where the cat sat.

Begin here, with the miniature model that ships with the package:
  p2pz demo                     from a collection to a report, offline, in a minute
  p2pz serve                    edit pictures on a page in the browser

Your own images:
  p2pz plan      input.uri=photos output=runs/dogs 'edits={cat2dog: {source: cat, target: dog}}'
  p2pz translate input.uri=photos output=runs/dogs 'edits={cat2dog: {source: cat, target: dog}}'
  p2pz status    runs/dogs
  p2pz report    runs/dogs

Use the pairs:
  p2pz evaluate  run=runs/dogs  scores
  p2pz distill   pairs.runs=runs/dogs output=runs/student   a student that edits in one pass
  p2pz export    runs/dogs out --format webdataset          pairs for another project's trainer

On a cluster: p2pz submit. Directions and miniature scenes as files: p2pz direction, p2pz world.
p2pz VERB --help shows what a verb takes, with an example.
"""
_EXAMPLES = {
    "demo": "p2pz demo --count 8 --out /tmp/demo",
    "world": "p2pz world runs/cats --count 64 --edit cat2dog --edit cat2glasses",
    "direction": "p2pz direction source=cat target=dog output=cat2dog.safetensors",
    "translate": "p2pz translate input.uri=photos output=runs/dogs 'edits={cat2dog: {source: cat, target: dog}}'",
    "evaluate": "p2pz evaluate run=runs/dogs metrics.structure.model=facebook/dino-vitb8",
    "distill": "p2pz distill pairs.runs=runs/dogs 'pairs.filter=clip_gain >= 0.1' output=runs/student",
    "serve": "p2pz serve port=8080 students=[runs/student/student]",
    "submit": "p2pz submit configs/sd15/cat2dog.yaml --address http://127.0.0.1:8265",
    "report": "p2pz report runs/dogs runs/other-dogs",
    "status": "p2pz status runs/dogs --watch",
    "plan": "p2pz plan configs/sd15/cat2dog.yaml --measure 16 --price 2.5",
    "export": "p2pz export runs/dogs out --format imagefolder --filter 'mask_overlap >= 0.7'",
}
_CONFIGURED = ("translate", "evaluate", "distill", "direction", "serve")


def parsed(arguments: Sequence[str], verbs: Collection[str]) -> argparse.Namespace:
    """The verb and its options. Ends the process with an overview, help, or one sentence about what is wrong.

    argparse takes settings from one place only: those after an option are added here.
    """
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # shell completion: pip install 'p2pz_ray[completion]'
        import argcomplete

        argcomplete.autocomplete(parser)
    if not arguments:
        print(_OVERVIEW, end="")
        sys.exit(0)
    first = arguments[0]
    if not first.startswith("-") and first not in verbs:
        like = difflib.get_close_matches(first, verbs, n=1)
        remedy = f"did you mean {like[0]}" if like else "p2pz alone shows them all"
        parser.error(f"there is no verb {first}: {remedy}")
    given, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(given, "settings") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if hasattr(given, "settings"):
        given.settings += rest
    if given.verb == "submit" and (bool(given.settings) + (given.stop is not None) + (given.follow is not None)) != 1:
        parser.error("submit takes a configuration, or --follow ID, or --stop ID")
    return given


class _Parser(argparse.ArgumentParser):
    """A verb's parser: its help ends with an example and, for a job, with its keys."""

    def format_help(self) -> str:
        verb = self.prog.rpartition(" ")[2]
        if verb not in _EXAMPLES:
            return super().format_help()
        keys = _keys(verb) if verb in _CONFIGURED else ""
        return f"{super().format_help()}\nexample:\n  {_EXAMPLES[verb]}\n{keys}"


def _keys(job: str) -> str:
    """A line for each key of the job's configuration, with its default."""
    from p2pz_ray.config.reference import JOBS, keys

    wide = max(60, shutil.get_terminal_size().columns)
    lines = []
    for key in keys(JOBS[job]):
        line = f"  {f'{key.name}={key.shown}':<44} {key.meaning}".rstrip()
        lines.append(line if len(line) <= wide else f"{line[: wide - 1]}…")
    return "\nkeys, with their defaults:\n" + "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="p2pz", description="Translate whole image collections with pix2pix-zero, on Ray.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"p2pz {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=help, description=help, allow_abbrev=False)

    adding = verb("demo", "from a collection to a report with the embedded miniature, offline, on this machine")
    adding.add_argument("--out", default="demo", help="folder for the collection, the run and the report")
    adding.add_argument("--count", type=_positive, help="how many images")

    adding = verb("world", "write a collection of miniature scenes, with truth")
    adding.add_argument("out", metavar="OUT", help="folder or URI of the collection")
    adding.add_argument("--count", type=_positive, required=True, help="how many scenes")
    adding.add_argument("--seed", type=int, default=0)
    adding.add_argument("--edit", action="append", help="KIND2KIND, such as cat2dog; may be given several times")

    for name, help in (
        ("direction", "two words → a direction file"),
        ("translate", "a collection → a run of pairs; resumes a run that was begun"),
        ("evaluate", "a run, finished or not → scores, metrics.json and a report; scores only unscored pairs"),
        ("distill", "pairs → a student, which edits in one pass; resumes a training that was begun"),
    ):
        adding = verb(name, help)
        adding.add_argument(
            "settings",
            nargs="+",
            metavar="CONFIG or KEY=VALUE",
            help="a YAML file, then settings such as seed=7 or input.uri=FOLDER; the file may be left out",
        )

    adding = verb(
        "serve", "a page, an API and an endpoint for assistants, until Ctrl-C; without settings, for the miniature"
    )
    adding.add_argument(
        "settings",
        nargs="*",
        metavar="CONFIG or KEY=VALUE",
        help="a YAML file, then settings such as port=8080 or students=[FOLDER]; both may be left out",
    )

    adding = verb("submit", "send a job to a Ray cluster and follow its log; ends with the job's exit code")
    adding.add_argument("settings", nargs="*", metavar="CONFIG or KEY=VALUE", help="as the job itself takes them")
    adding.add_argument(
        "--address", required=True, metavar="URL", help="the dashboard's address, such as http://127.0.0.1:8265"
    )
    adding.add_argument(
        "--job",
        default="translate",
        choices=["translate", "direction", "distill", "evaluate"],
        help="default: translate",
    )
    adding.add_argument("--working-dir", default=".", metavar="DIR", help="the folder to send; default: this one")
    adding.add_argument("--no-wait", action="store_true", help="don't follow the log")
    adding.add_argument("--follow", metavar="ID", help="follow a job that was sent before")
    adding.add_argument("--stop", metavar="ID", help="stop a job: finished work stays; submit it again to resume")

    adding = verb("report", "write RUN/report/index.html, for a run finished or not")
    adding.add_argument("run", metavar="RUN")
    adding.add_argument("other", metavar="RUN", nargs="?", help="a second run: compare the two pair by pair instead")
    adding.add_argument("--truth", metavar="URI", help="the miniature collection that the run translated")
    adding.add_argument(
        "--student", metavar="RUN", help="a run whose edits of the same images are shown as a student's"
    )
    _with_storage(adding)

    adding = verb("status", "a run's progress, from its manifests")
    adding.add_argument("run", metavar="RUN")
    adding.add_argument("--watch", action="store_true", help="print again after each commit, until the run ends")
    adding.add_argument("--json", action="store_true", help="print one JSON object per line")
    _with_storage(adding)

    adding = verb("plan", "what a translation would do: images, partitions, requests; with --measure hours and cost")
    adding.add_argument("settings", nargs="+", metavar="CONFIG or KEY=VALUE", help="as translate takes them")
    adding.add_argument("--measure", type=_positive, metavar="N", help="translate N images here to measure the speed")
    adding.add_argument("--price", type=float, metavar="PRICE", help="price per replica hour; with --measure")

    adding = verb("export", "a run's kept pairs in the form that another project's trainer reads")
    adding.add_argument("run", metavar="RUN")
    adding.add_argument("out", metavar="OUT", help="folder or URI")
    adding.add_argument("--format", choices=FORMATS, required=True)
    adding.add_argument("--filter", help="a condition over the columns of the scores, such as 'mask_overlap >= 0.7'")
    adding.add_argument("--edit", help="the edit to export, if the run has several; default: all")
    adding.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="a pair's text, with {source}, {target}, {a_target}; may be repeated",
    )
    adding.add_argument("--duplicates", type=float, default=1.0, metavar="LEVELS", help=_DUPLICATES)
    adding.add_argument(
        "--test",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the source pictures to test with; default: 0.1",
    )
    adding.add_argument("--seed", type=int, default=0, help="seed of the choice among several prompts")
    adding.add_argument(
        "--push", metavar="hf://datasets/OWNER/NAME", help="also send the export to the hub, as one commit"
    )
    _with_storage(adding)
    return parser


def _with_storage(adding: argparse.ArgumentParser) -> None:
    adding.add_argument(
        "--storage-options",
        metavar="FILE",
        default=os.environ.get("P2PZ_STORAGE_OPTIONS"),
        help="YAML file with fsspec's options for the run's storage; default: the file that P2PZ_STORAGE_OPTIONS names",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
