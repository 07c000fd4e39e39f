"""Locations are the same however they are spelled."""

import os
from pathlib import Path

import pytest

from p2pz_ray.storage.inside import lies_inside
from p2pz_ray.storage.store import Store
from p2pz_ray.storage.uri import unquoted


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/my%20cats", "/data/my cats"),
        ("FILE:///data/my%20cats", "/data/my cats"),
        ("file://localhost/data/a%23b", "/data/a#b"),
        ("file:///data/L%C3%A4ufe", "/data/Läufe"),
        ("file:///data/100%", "/data/100%"),
        ("file:///data/50%2525", "/data/50%25"),
        ("/data/my%20cats", "/data/my%20cats"),
        ("my%20cats", "my%20cats"),
        ("s3://bucket/my%20cats", "s3://bucket/my%20cats"),
    ],
)
def test_file_uris_are_unquoted_and_nothing_else(uri: str, path: str) -> None:
    assert unquoted(uri) == path


@pytest.mark.parametrize("name", ["my cats", "a#b", "Läufe", "50%", "q?x", "[1]"])
def test_a_store_reads_and_writes_what_a_file_uri_names(tmp_path: Path, name: str) -> None:
    uri = (tmp_path / name).as_uri()
    Store(uri).write("a.txt", b"a")
    assert (tmp_path / name / "a.txt").read_bytes() == b"a"
    assert Store(f"{uri}/a.txt").read("") == b"a"


INSIDE = [
    ("IN/run", "IN"),
    ("IN", "IN"),
    ("IN/", "IN"),
    ("IN/run", "IN/"),
    ("file://IN/run", "IN"),
    ("IN/run", "file://IN"),
    ("file://IN/my%20run", "file://localhost/IN"),
    ("IN/../IN/run", "IN"),
    ("IN/deeper/..", "IN"),
    ("IN/run", "IN/deeper/.."),
    ("LINK/run", "IN"),
    ("IN/run", "LINK"),
    ("IN/run", "IN/**/*.parquet"),
    ("IN/run", "IN/**"),
    ("memory://in/run", "memory://in"),
    ("memory://in/./run", "memory:///in/"),
    ("s3://b/in/run", "s3a://b/in"),
    ("s3://b/in/../in/run", "s3://b/in"),
]
OUTSIDE = [
    ("IN-2/run", "IN"),
    ("OUT/run", "IN"),
    ("IN/../run", "IN"),
    ("IN/run", "IN/*.png"),
    ("IN/run", "IN/a.parquet"),
    ("memory://in-2/run", "memory://in"),
    ("s3://b/in/run", "s3://c/in"),
    ("s3://b/in/run", "gs://b/in"),
    ("/b/in/run", "s3://b/in"),
    ("memory:///tmp/in", "/tmp"),
]


def located(uri: str, folder: Path) -> Store:
    for name in ("IN", "OUT", "LINK"):
        if uri.startswith((name, f"file://{name}", f"file://localhost/{name}")):
            full = str(folder / name).lstrip("/") if "localhost" in uri else str(folder / name)
            uri = uri.replace(name, full, 1)
    fake = {"key": "k", "secret": "s"} if uri.startswith("s3") else {"token": "anon"} if uri.startswith("gs") else {}
    return Store(uri, fake)


@pytest.mark.parametrize(
    ("inner", "outer", "expected"), [*((*p, True) for p in INSIDE), *((*p, False) for p in OUTSIDE)]
)
def test_what_lies_inside_is_seen_however_it_is_spelled(tmp_path: Path, inner: str, outer: str, expected: bool) -> None:
    if "gs:" in outer:
        pytest.importorskip("gcsfs")
    for name in ("IN/deeper", "IN-2", "OUT"):
        os.makedirs(tmp_path / name)
    os.symlink(tmp_path / "IN", tmp_path / "LINK")
    assert lies_inside(located(inner, tmp_path), located(outer, tmp_path)) is expected
