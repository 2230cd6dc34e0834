"""The tables' Parquet files in a storage root: where they are, and what is in them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akool_dagster.base.partitions import partition_window
from akool_dagster.clock import Clock
from akool_dagster.storage import StorageError, StorageRoot

SUFFIX = ".parquet"
_TABLES = ("results", "credits", "durations", "statuses", "videos")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """One partition of one table, by its file's name."""

    table: str
    key: str
    """The partition's key as file names have it: without colons."""
    relative: str
    start: int
    end: int
    """The partition's first millisecond and that of the next."""


def table_files(root: StorageRoot, account: str) -> list[TableFile]:
    """Return every partition of an account's tables that is there, by key. Raises `StorageError` for an outage."""
    found = []
    for table in _TABLES:
        for name in root.list_files(f"{account}/{table}"):
            key = name.removesuffix(SUFFIX)
            window = partition_window(key)
            if name.endswith(SUFFIX) and window is not None:
                start, end = window
                found.append(
                    TableFile(table=table, key=key, relative=f"{account}/{table}/{name}", start=start, end=end)
                )
    return sorted(found, key=lambda file: file.key)


def read_table(root: StorageRoot, relative: str, columns: Collection[str] | None = None) -> pa.Table | None:
    """Read one Parquet file of the storage root, or those of some columns that it has; None where there is none.

    Raises `StorageError`, naming the file, when it cannot be read.
    """
    content = root.read_if_there(relative)
    if content is None:
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        there = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
        table = file.read(columns=there)
        table.validate(full=True)  # else text that is no UTF-8 is met later, where nobody expects it
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"{root.uri(relative)} cannot be read as Parquet: {error}. Bring it back from a backup."
        ) from error


def remove_rows(root: StorageRoot, relative: str, ids: Collection[str], clock: Clock) -> int:
    """Remove the rows of these jobs from a file; return how many it had."""
    table = read_table(root, relative)
    if table is None:
        return 0
    kept = table.filter(pc.invert(pc.is_in(table.column("_id"), value_set=pa.array(sorted(ids), pa.string()))))
    if kept.num_rows < table.num_rows:
        with root.temporary(relative) as path:
            pq.write_table(kept, path)
            root.publish(path, relative)
    return int(table.num_rows - kept.num_rows)
