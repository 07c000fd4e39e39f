"""A collection's cells by id: masks, captions and truths that belong to a run's pairs."""

from collections import OrderedDict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p2pz_ray.collection.listing import locate, walk
from p2pz_ray.errors import ConfigError
from p2pz_ray.storage.store import Store

_KEPT_ROW_GROUPS = 4


class Lookup:
    """A collection of Parquet files (a file, a folder or a glob). columns: those that every file has.
    needs: how a column begins that every file must have.

    Raises `ConfigError` if there is no Parquet file at the URI, or one that has no ids or can't be read.
    """

    def __init__(
        self, uri: str, storage_options: dict[str, Any] | None = None, *, id: str = "id", needs: str = ""
    ) -> None:
        self.uri, self._id, self._needs = uri, id, needs
        self._store, pattern = locate(Store(uri, storage_options))
        entries = walk(self._store, pattern, lambda path: path.endswith(".parquet"))
        paths = sorted(entry.path for entry in entries if entry is not None)
        if not paths:
            raise ConfigError(f"{uri} has no Parquet file: give a collection in Parquet, such as p2pz world writes.")
        self._places: dict[str, tuple[str, int, int]] = {}  # id → file, row group, row in it
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self.columns = set.intersection(*map(self._index, paths))

    def cell(self, id: str, column: str) -> Any:
        """A value by id and column, an image's bytes for an image; None where there is none."""
        place = self._places.get(id)
        if place is None:
            return None
        path, group, row = place
        table = self._group(path, group)
        value = table[column][row].as_py() if column in table.column_names else None
        return value["bytes"] if isinstance(value, dict) else value

    def _group(self, path: str, group: int) -> pa.Table:
        # Pairs come in the collection's order, so a few row groups at hand serve nearly every look-up.
        if (path, group) in self._groups:
            self._groups.move_to_end((path, group))
        else:
            with self._store.open(path) as file:
                self._groups[path, group] = pq.ParquetFile(file).read_row_group(group)
            if len(self._groups) > _KEPT_ROW_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[path, group]

    def _index(self, path: str) -> set[str]:
        """Note where the file's ids are; its columns."""
        name = self._store.name(path)
        try:
            with self._store.open(path) as file:
                parquet = pq.ParquetFile(file)
                columns = parquet.schema_arrow.names
                if self._id not in columns or not any(column.startswith(self._needs) for column in columns):
                    also = f" or none that begins with {self._needs}" if self._needs else ""
                    raise ConfigError(
                        f"{name} has no column {self._id}{also}; its columns are {', '.join(columns)}: give the "
                        "collection that the run was made of."
                    )
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, [self._id])[self._id].to_pylist()
                    for row, id in enumerate(ids):
                        self._places.setdefault(str(id), (path, group, row))
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{name} is not a readable Parquet file: write it again or leave it out.") from error
        return set(columns)
