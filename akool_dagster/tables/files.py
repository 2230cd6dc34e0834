"""The tables' Parquet files in a storage root: where they are, and how they are read, merged into and replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akool_dagster.base.clock import Clock
from akool_dagster.base.partitions import partition_file_key, partition_window
from akool_dagster.storage import NOTHING, ChangedMeanwhileError, StorageError, StorageRoot
from akool_dagster.tables.columns import TABLES
from akool_dagster.tables.merge import Merge
from akool_dagster.tables.spec import SPOOL_ROWS, TableSpec

_Result = TypeVar("_Result")

SUFFIX = ".parquet"
COMPRESSION = "zstd"
ROW_GROUP_ROWS = 50_000
LOCK_SECONDS = 120.0
"""How long a run waits for another one that merges into the same file: longer than a merge of a full day takes."""
TRIES = 5
"""How often a merge is made anew because the object in object storage changed meanwhile."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedTable:
    """What one landing of a table wrote."""

    rows: int
    bytes: int
    carried_over: int = 0
    """Rows that only the file had."""
    carried_over_not_ended: int = 0
    """Those rows of them whose job or video has not ended: nobody polls the job or downloads the video."""
    totals: Mapping[str, int | float] = field(default_factory=dict)
    """Counts and sums for a materialisation's metadata, by their name there."""


def table_files(root: StorageRoot, account: str) -> list[TableFile]:
    """Return every partition of an account's tables that is there, by key. Raises `StorageError` for an outage."""
    found = []
    for table in TABLES:
        for name in root.list_files(f"{account}/{table}"):
            key = name.removesuffix(SUFFIX)
            window = partition_window(key)
            if name.endswith(SUFFIX) and window is not None:
                start, end = window
                found.append(
                    TableFile(table=table, key=key, relative=f"{account}/{table}/{name}", start=start, end=end)
                )
    return sorted(found, key=lambda file: file.key)


def table_paths(account: str, window: tuple[int, int]) -> list[str]:
    """Return where the files of a partition are, one a table, given its first millisecond and that of the next."""
    key = partition_file_key(window)
    return [f"{account}/{table}/{key}{SUFFIX}" for table in TABLES]


def land(
    root: StorageRoot,
    relative: str,
    spec: TableSpec,
    batches: Iterable[pa.RecordBatch],
    forgotten: Callable[[], Collection[str]],
    clock: Clock,
) -> LandedTable:
    """Merge a partition's rows into its file, which is read, merged and replaced in one critical section.

    ``batches``: the ledger's rows of the table's schema, by ``_id``; may be read more than once. ``forgotten`` is asked
    inside the critical section: rows with these ids are dropped. Raises `StorageError` for a file that cannot be read,
    naming it and the way out, when the storage cannot be used, and when another run keeps the file busy;
    `UnorderedRowsError` for rows that are not sorted.
    """

    def landed(there: _ParquetFile | None, target: Path) -> LandedTable:
        schema = spec.schema if there is None else _extended(spec.schema, there.schema)
        merge = Merge(
            spec,
            (_fitted(batch, schema) for batch in batches),
            () if there is None else there.batches(schema),
            file_name=root.uri(relative),
            forgotten=forgotten(),
        )
        summary = Summary(spec)
        rows = _write(root, relative, target, schema, map(summary.noted, merge))
        return LandedTable(
            rows=rows,
            bytes=target.stat().st_size,
            carried_over=merge.carried_over,
            carried_over_not_ended=merge.carried_over_not_ended,
            totals=summary.totals(),
        )

    return _rewrite(root, relative, landed, clock)


def remove_rows(root: StorageRoot, relative: str, ids: Collection[str], clock: Clock) -> int:
    """Remove the rows with these ids from a table's file, in the critical section of `land`; return their number.

    A file without such a row is left as it is. Raises as `land` does.
    """
    unwanted = pa.array(sorted(ids), pa.string())

    def without(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.invert(pc.is_in(batch.column("_id").cast(pa.string()), value_set=unwanted)))

    def removed(there: _ParquetFile | None, target: Path) -> int:
        if there is None:
            return 0
        kept = _write(root, relative, target, there.schema, map(without, there.batches(there.schema)))
        if kept == there.rows:
            target.unlink()
        return there.rows - kept

    return _rewrite(root, relative, removed, clock)


def write_table(root: StorageRoot, relative: str, table: pa.Table, clock: Clock) -> LandedTable:
    """Write a table to a file, whatever is there before. Raises `StorageError`."""
    folder = relative.rpartition("/")[0]
    if folder:
        root.remove_stale_temporaries(folder, clock)
    with root.temporary(relative) as target:
        rows = _write(root, relative, target, table.schema, table.to_batches())
        landed = LandedTable(rows=rows, bytes=target.stat().st_size)
        root.publish(target, relative)
    return landed


def read_table(root: StorageRoot, relative: str, columns: Collection[str] | None = None) -> pa.Table | None:
    """Read one Parquet file of the storage root, or those of some columns that it has; None where there is none.

    Raises `StorageError`, naming the file and the way out, when it cannot be read.
    """
    with root.local_copy(relative) as copy:
        if copy is None:
            return None
        with _explained(root, relative):
            file = pq.ParquetFile(copy[0])
            there = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            table = file.read(columns=there)
            table.validate(full=True)  # else text that is no UTF-8 is met later, where nobody expects it
            return table


class Summary:
    """The numbers of a table that its materialisation shows."""

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._counts: Counter[str] = Counter()
        self._sums: dict[str, int | float] = dict.fromkeys(spec.totals, 0)
        self.rows = 0

    def noted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Count a batch in, and return it."""
        self.rows += batch.num_rows
        for entry in pc.value_counts(batch.column(self._spec.counted[0])).to_pylist():
            self._counts[entry["values"]] += entry["counts"]
        for name, column in self._spec.totals.items():
            self._sums[name] += pc.sum(batch.column(column)).as_py() or 0
        return batch

    def totals(self) -> dict[str, int | float]:
        """Return the counts and sums, by their name in a materialisation's metadata."""
        return {name: self._counts[value] for value, name in self._spec.counted[1].items()} | self._sums


class _ParquetFile:
    """A table's file, open for reading by batches."""

    def __init__(self, root: StorageRoot, relative: str, content: BinaryIO) -> None:
        self._root = root
        self._relative = relative
        with _explained(root, relative):
            self._file = pq.ParquetFile(content)
            self.schema: pa.Schema = self._file.schema_arrow
        self.rows: int = self._file.metadata.num_rows
        if self.schema.names.count("_id") != 1 or len(set(self.schema.names)) != len(self.schema.names):
            raise StorageError(f"{root.uri(relative)} is not a table of this package. {_WAY_OUT}")

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows with the columns of a schema: those that the file lacks are null, others are cast."""
        with _explained(self._root, self._relative):
            for group in range(self._file.num_row_groups):
                for batch in self._file.iter_batches(batch_size=SPOOL_ROWS, row_groups=[group]):
                    batch.validate(full=True)
                    yield _fitted(batch, schema)


_WAY_OUT = (
    "Bring it back from a backup; or move it away and materialize the partition, which lands the rows that the ledger "
    "still has: not those of pruned jobs."
)


@contextmanager
def _explained(root: StorageRoot, relative: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StorageError(f"{root.uri(relative)} cannot be read as a table: {error}. {_WAY_OUT}") from error


def _rewrite(
    root: StorageRoot, relative: str, write: Callable[[_ParquetFile | None, Path], _Result], clock: Clock
) -> _Result:
    """Run ``write`` with what is there and a temporary file, and publish that if it was written, all under the lock."""
    folder, _, name = relative.rpartition("/")
    root.remove_stale_temporaries(folder, clock)
    with root.lock(f"{folder}/.{name.removesuffix(SUFFIX)}.lock", seconds=LOCK_SECONDS, clock=clock):
        for tries_left in reversed(range(TRIES)):
            with root.local_copy(relative) as copy, root.temporary(relative) as target:
                result = write(None if copy is None else _ParquetFile(root, relative, copy[0]), target)
                try:
                    if target.exists():
                        root.publish(target, relative, replacing=NOTHING if copy is None else copy[1])
                    return result
                except ChangedMeanwhileError:
                    if not tries_left:
                        raise
    raise AssertionError("unreachable")


def _write(root: StorageRoot, relative: str, target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches to a temporary file, in row groups; return the number of rows."""
    rows = 0
    try:
        with (
            root.files.open(target, "xb") as sink,
            pq.ParquetWriter(sink, schema, compression=COMPRESSION) as writer,
        ):
            for group in _row_groups(schema, batches):
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
                rows += group.num_rows
    except pa.ArrowException as error:
        raise StorageError(f"Cannot write {root.uri(relative)}: {error}") from error
    return rows


def _row_groups(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        pending.append(batch)
        rows += batch.num_rows
        while rows >= ROW_GROUP_ROWS:
            table = pa.Table.from_batches(pending, schema)
            yield table.slice(0, ROW_GROUP_ROWS)
            rest = table.slice(ROW_GROUP_ROWS)
            pending, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(pending, schema)


def _extended(schema: pa.Schema, there: pa.Schema) -> pa.Schema:
    """Return the table's schema with the columns that only the file has, of a newer version, before the last one."""
    *columns, version = schema
    unknown = [column for column in there if column.name not in schema.names]
    return pa.schema([*columns, *unknown, version], metadata=schema.metadata)


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with exactly the columns of a schema. Raises ValueError for a column that cannot be cast."""
    arrays = []
    for column in schema:
        index = batch.schema.get_field_index(column.name)
        if index < 0:
            arrays.append(pa.nulls(batch.num_rows, column.type))
            continue
        try:
            arrays.append(batch.column(index).cast(column.type))
        except pa.ArrowException as error:
            raise ValueError(f"its column {column.name} cannot be cast to {column.type}: {error}") from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
