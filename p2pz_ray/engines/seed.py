"""The seed of an image's randomness."""

import hashlib


def image_seed(run_seed: int, id: str) -> int:
    """The seed of one image's randomness, 0 … 2⁶³-1: the same in every attempt, partition and batch."""
    # An id may hold lone surrogates (a file name that isn't UTF-8): they must not stop the hash.
    digest = hashlib.sha256(f"{run_seed}:{id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
