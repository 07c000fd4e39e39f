"""Write a run's kept pairs as a trainer of another project reads them:

python jobs/export.py RUN OUT --format instructpix2pix|img2img-turbo [--filter "mask_overlap >= 0.7"]
"""

import argparse
import sys
from collections.abc import Iterator
from typing import get_args

from p2pz_ray.collection.store import Store
from p2pz_ray.distill.config import PairsConfig
from p2pz_ray.distill.pairs import PairSource
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation.export import Format, Kept, export
from p2pz_ray.evaluation.run import Run


def kept(source: PairSource, run: Run, format: Format, prompt: str | None) -> Iterator[Kept]:
    """The pairs that pass the filter, with what is to be said of each."""
    edits = run.config.get("edits") or {}
    for candidate, before, after in source.pictures(source.candidates()):
        edit = str(candidate.values["edit"])
        words = edits.get(edit) or {}
        if prompt is None and not (words.get("source") and words.get("target")):
            raise ConfigError(f"The edit {edit} was made from a direction file and has no words: give --prompt.")
        said = prompt or (
            f"turn the {words['source']} into a {words['target']}"
            if format == "instructpix2pix"
            else f"a photo of a {words['target']}"
        )
        if before and after:
            yield Kept(candidate.id, edit, said, before, after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("--format", choices=get_args(Format), required=True)
    parser.add_argument("--filter", help="a condition over the columns of the scores")
    parser.add_argument("--edit", help="which, where the run has several")
    parser.add_argument("--prompt", help="what to say of every pair")
    parser.add_argument("--test", type=float, default=0.1, metavar="SHARE", help="of the source pictures; default: 0.1")
    given = parser.parse_args()
    try:
        run = Run(given.run)
        source = PairSource(PairsConfig(runs=[given.run], edit=given.edit, filter=given.filter))
        about = f"Kept of a run of p2pz_ray{f' by the filter `{given.filter}`' if given.filter else ''}."
        counts = export(
            kept(source, run, given.format, given.prompt), Store(given.out), given.format, given.test, about
        )
    except P2PZError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"Wrote {counts.get('train', 0):,} pairs to train on and {counts.get('test', 0):,} to test with: {given.out}")
    for reason, count in source.dropped.items():
        print(f"  left out, {count:,}: not {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
