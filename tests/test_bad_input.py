"""A thousand generated bad inputs: no crash, no hang, nothing lost in silence; each is a row or a sentence."""

import io
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from p2pz_ray import EditDirection
from p2pz_ray.collection.partition import Partition, Plan, Source
from p2pz_ray.collection.plan import make_plan
from p2pz_ray.collection.reader import read_partition
from p2pz_ray.commit.manifest import Manifest
from p2pz_ray.config import TranslateConfig, load
from p2pz_ray.errors import ImageError, P2PZError
from p2pz_ray.picture.codec import DecodePolicy, decode
from p2pz_ray.translation.status import status

ROOT = Path(__file__).parents[1]
PATIENCE = 30  # seconds until a case counts as hanging
POLICY = DecodePolicy((64, 64), max_pixels=1_000_000)


@contextmanager
def no_hang() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("the case hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mangled(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, a piece cut out, doubled, zeroed or put elsewhere, or the end left out."""
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        start, length = int(rng.integers(0, len(broken) + 1)), int(rng.integers(1, 1 + max(1, len(broken) // 4)))
        piece = bytes(broken[start : start + length])
        match int(rng.integers(0, 6)):
            case 0:
                for _ in range(int(rng.integers(1, 5))):
                    if broken:
                        broken[int(rng.integers(0, len(broken)))] = int(rng.integers(0, 256))
            case 1:
                del broken[start : start + length]
            case 2:
                broken[start:start] = piece
            case 3:
                broken[start : start + length] = bytes(len(piece))
            case 4:
                broken[start : start + length] = rng.bytes(len(piece))
            case _:
                del broken[start:]
    return bytes(broken)


def sentence(error: P2PZError) -> str:
    """What an error says, which must be one line that says something."""
    said = str(error)
    assert said.strip()
    assert "\n" not in said
    assert "Traceback" not in said
    return type(error).__name__


# Each of these takes what it is given to its end, in one of two ways: it is used, or refused in a sentence.


def an_image(rng: np.random.Generator, folder: Path) -> str:
    form = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")[int(rng.integers(0, 7))]
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(buffer, form)
    try:
        assert decode(mangled(buffer.getvalue(), rng), POLICY).shape == (64, 64, 3)
    except ImageError as error:
        return sentence(error)
    return "used"


def a_table(rng: np.random.Generator, folder: Path) -> str:
    count = int(rng.integers(1, 9))
    pictures = [{"bytes": rng.bytes(3000), "path": ""} for _ in range(count)]
    table = pa.table({"id": [f"r{i}" for i in range(count)], "image": pictures})
    buffer = io.BytesIO()
    if rng.random() < 0.5:
        file = folder / "t.parquet"
        pq.write_table(table, buffer)
    else:
        file = folder / "t.arrow"
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
    file.write_bytes(mangled(buffer.getvalue(), rng))
    return all_rows_of(folder)


def a_schema(rng: np.random.Generator, folder: Path) -> str:
    """A sound file whose columns are of any type, or absent, or there with null."""
    values: list[Any] = [
        pa.array(["a", "b"]),
        pa.array([b"a", b"b"]),
        pa.array([1, 2]),
        pa.array([None, None]),
        pa.array([["a"], []]),
        pa.array([{"bytes": b"x", "path": "p"}, None]),
        pa.array([{"path": 3}, {"path": 4}]),
        pa.array([0.5, float("nan")]),
        pa.array([True, None]),
        pa.array(["/etc/passwd", "http://127.0.0.1:9/x"]),
        pa.array(["x", "x"]).dictionary_encode(),
        pa.array([2**40, None], pa.timestamp("us")),
        pa.array(["é\x00", ""]),
    ]
    names = [name for name in ("id", "image", "caption", "mask") if rng.random() < 0.8]
    table = pa.table({name: values[int(rng.integers(0, len(values)))] for name in names})
    if not table.num_columns:
        table = pa.table({"nothing": values[0]})
    pq.write_table(table, folder / "t.parquet")
    return all_rows_of(folder)


def all_rows_of(folder: Path) -> str:
    try:
        plan = make_plan(str(folder), images_per_partition=3)
        items = [item for partition in plan.partitions for item in read_partition(str(folder), partition)]
    except P2PZError as error:
        return sentence(error)
    assert len(items) == plan.images
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert (item.data is None) == bool(item.error)
        if item.data is not None:
            try:
                decode(item.data, POLICY)
            except ImageError as error:
                sentence(error)
    return "used"


def a_configuration(rng: np.random.Generator, folder: Path) -> str:
    text = (ROOT / "configs/mini/cat2dog.yaml").read_text()
    if rng.random() < 0.5:
        text = mangled(text.encode(), rng).decode("utf-8", "surrogateescape")
        (folder / "job.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    else:
        document = yaml.safe_load(text)
        for _ in range(int(rng.integers(1, 4))):
            key = list(document)[int(rng.integers(0, len(document)))]
            document[key] = [None, -1, "", [], {}, "∞", 1e400, True, {"a": {"b": []}}][int(rng.integers(0, 9))]
        (folder / "job.yaml").write_text(yaml.safe_dump(document))
    try:
        load(str(folder / "job.yaml"), [], TranslateConfig)
    except P2PZError as error:
        return sentence(error)
    return "used"


def a_run(rng: np.random.Generator, folder: Path) -> str:
    """A run whose plan and manifest are damaged, as `p2pz status` looks at it."""
    plan = Plan(tuple(Partition.of("files", [Source(f"{i}.png", "1")]) for i in range(3)))
    id = plan.partitions[0].id
    manifest = json.dumps(asdict(Manifest(id, "1", f"data/{id}-1.parquet", 1, 1, 1, 0, "", "", 0.0, 1.0))).encode()
    for name, data in (("plan.json", plan.to_json().encode()), (f"manifest/{id}.json", manifest)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(mangled(data, rng) if rng.random() < 0.7 else data)
    (folder / "data").mkdir(exist_ok=True)
    (folder / f"data/{id}-1.parquet").write_bytes(b"")
    try:
        str(status(str(folder)))
    except P2PZError as error:
        return sentence(error)
    return "used"


def a_direction(rng: np.random.Generator, folder: Path) -> str:
    if rng.random() < 0.5:
        data = mangled(EditDirection(torch.randn(4, 8), {"name": "x"}).to_bytes(), rng)
        make: Callable[[], object] = lambda: EditDirection.from_bytes(data, "x.safetensors")  # noqa: E731
    else:
        for name in ("a.pt", "b.pt"):
            buffer = io.BytesIO()
            torch.save(torch.randn(1, 4, 8), buffer)
            (folder / name).write_bytes(mangled(buffer.getvalue(), rng))
        make = lambda: EditDirection.from_embeddings(str(folder / "a.pt"), str(folder / "b.pt"))  # noqa: E731
    try:
        make()
    except P2PZError as error:
        return sentence(error)
    return "used"


CASES: dict[Callable[[np.random.Generator, Path], str], int] = {
    an_image: 250,
    a_table: 200,
    a_schema: 150,
    a_configuration: 150,
    a_run: 150,
    a_direction: 100,
}
assert sum(CASES.values()) == 1000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_input_is_a_row_or_a_sentence(case: Callable[[np.random.Generator, Path], str], tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    for number in range(CASES[case]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with no_hang():
            ends[case(np.random.default_rng([number, 7]), folder)] += 1
    assert ends.total() == CASES[case]
    assert len(ends) > 1  # the cases are neither all harmless nor all hopeless
