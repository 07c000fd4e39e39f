"""Makes a table of pairs for `p2pz distill` from a folder of pictures, NAME_source.jpg beside NAME_edited.jpg:

    python jobs/pairs.py FOLDER OUT.parquet [--only 'cat2dog_*']

The pictures' bytes are taken as they are; NAME is the pair's id.
"""

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pyarrow as pa

from p2pz_ray.collection.schema import IMAGE, table_bytes
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.storage.store import Store

SCHEMA = pa.schema([("id", pa.string()), ("image", IMAGE), ("edited_image", IMAGE)])
ENDS = {"_source": "image", "_edited": "edited_image"}


def pairs(folder: Store, only: str = "*") -> pa.Table:
    """A row for each pair whose name is like `only`. Raises ConfigError where a picture has no partner, or there is no
    pair at all."""
    rows: dict[str, dict[str, object]] = {}
    for name in folder.list():
        stem = PurePosixPath(name).stem
        for end, column in ENDS.items():
            if stem.endswith(end) and fnmatchcase(stem.removesuffix(end), only):
                row = rows.setdefault(stem.removesuffix(end), {})
                row[column] = {"bytes": folder.read(name), "path": name}
    alone = [name for name, row in rows.items() if len(row) < len(ENDS)]
    if alone:
        raise ConfigError(f"{folder.uri} has only one picture of {alone[0]}: put the other one beside it.")
    if not rows:
        raise ConfigError(f"{folder.uri} has no pictures named NAME_source and NAME_edited, NAME like {only}.")
    return pa.Table.from_pylist([{"id": name, **row} for name, row in sorted(rows.items())], SCHEMA)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of pairs")
    given = parser.parse_args(arguments)
    try:
        table = pairs(Store(given.folder), given.only)
        Store(given.out).write("", table_bytes(table))
    except P2PZError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"Wrote {table.num_rows:,} pairs: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
