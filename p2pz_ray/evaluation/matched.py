"""The pairs that two runs have in common, with their scores, some at a time."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from p2pz_ray.commit.run import Run
from p2pz_ray.evaluation.scores import ScoreFolder, made_by
from p2pz_ray.evaluation.tally import all_narrow_rows

ROWS = 200_000
"""Rows of each run in memory at a time, or a little more."""
KEYS = ["id", "edit"]
OTHERS = "other:"
"""Prefix of the columns that are the second run's."""


class Matched:
    """Matches two runs' pairs that have a picture, by id and edit.

    The runs may be cut into different partitions, so their rows are first sorted into files of `folder` by a hash of
    the id: all rows of an image are then in one file of each run.

    pictured: the number of pairs with a picture in each run. names: the scores that both runs have, computed by the
    same model.
    """

    def __init__(self, one: Run, two: Run, folder: Path) -> None:
        most = max(sum(manifest.rows for manifest in run.manifests) for run in (one, two))
        self._files = [[folder / f"{number}-{run}" for run in "ab"] for number in range(-(-most // ROWS))]
        (a, made_a), (b, made_b) = (self._sort(run, number) for number, run in enumerate((one, two)))
        self.pictured = a, b
        self.names = [name for name, made in made_a.items() if made == made_b.get(name)]

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of matched pairs, with all pairs of each image in one: id, edit, the run's partition and its scores;
        the other run's with the prefix `OTHERS`."""
        for files in self._files:
            if all(file.exists() for file in files):
                one, two = map(_read, files)
                two = two.rename_columns([name if name in KEYS else OTHERS + name for name in two.column_names])
                found = one.join(two, KEYS, join_type="inner").sort_by([(key, "ascending") for key in KEYS])
                if found.num_rows:
                    yield found

    def _sort(self, run: Run, number: int) -> tuple[int, dict[str, str]]:
        """Sort a run's rows into its files; returns how many they are, and its scores with what made them."""
        pictured, made, waiting, many = 0, dict[str, str](), list[pa.Table](), 0
        scores = ScoreFolder(run.store).tables(run.manifests)
        scored = next(scores, None)
        for index, rows in all_narrow_rows(run):
            manifest = run.manifests[index]
            held = [(id, edit) for id, edit, status, _ in rows if status != "error"]
            ids, edits = ([key[i] for key in held] for i in (0, 1))
            table = pa.table([ids, edits, [manifest.partition] * len(held)], _NARROW)
            if scored and scored[0] is manifest:
                made.update(made_by(scored[1]))
                table = table.join(scored[1].replace_schema_metadata(), KEYS, join_type="left outer")
                scored = next(scores, None)
            pictured, many = pictured + len(held), many + len(held)
            waiting.append(table)
            if many >= ROWS:
                self._write(waiting, number)
                waiting, many = [], 0
        self._write(waiting, number)
        return pictured, made

    def _write(self, tables: list[pa.Table], number: int) -> None:
        if tables:
            table = pa.concat_tables(tables, promote_options="default")
            where = pa.array([_hash(id) % len(self._files) for id in table["id"].to_pylist()], pa.int32())
            for place, files in enumerate(self._files):
                some = table.filter(pc.equal(where, place))
                with files[number].open("ab") as file, pa.ipc.new_stream(file, some.schema) as stream:
                    stream.write_table(some)


_NARROW = pa.schema([("id", pa.string()), ("edit", pa.string()), ("partition", pa.string())])


def _read(file: Path) -> pa.Table:
    """All tables written to a file, as one."""
    tables = []
    with pa.OSFile(str(file)) as source:
        while source.tell() < source.size():
            with pa.ipc.open_stream(source) as stream:
                tables.append(stream.read_all())
    return pa.concat_tables(tables, promote_options="default")


def _hash(id: str) -> int:
    return zlib.crc32(id.encode("utf-8", "surrogatepass"))
