"""Collections of images at any fsspec URI: their forms and columns, the plan of partitions, and reading."""

from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.collection.plan import make_plan
from p2pz_ray.collection.reader import Item, read_partition
from p2pz_ray.collection.schema import (
    IMAGE,
    Columns,
    check_schema,
    collection_schema,
    pairs_schema,
    table_bytes,
)
from p2pz_ray.picture.codec import DecodePolicy, decode, encode
from p2pz_ray.storage.failure import FileError, MissingFileError, StorageError
from p2pz_ray.storage.store import Store

__all__ = [
    "IMAGE",
    "Columns",
    "DecodePolicy",
    "FileError",
    "Item",
    "MissingFileError",
    "Partition",
    "Plan",
    "Source",
    "StorageError",
    "Store",
    "check_schema",
    "collection_schema",
    "decode",
    "encode",
    "make_plan",
    "pairs_schema",
    "read_partition",
    "table_bytes",
]
