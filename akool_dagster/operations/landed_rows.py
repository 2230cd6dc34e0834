"""The rows of one partition, read from a table's file, and which of them show the end of their job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from akool_dagster.ledger import VideoState
from akool_dagster.ledger.landings import VIDEOS
from akool_dagster.ledger.records import FINAL_STATES
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import TABLES
from akool_dagster.tables.files import TableFile, read_table
from akool_dagster.tables.spec import TIMESTAMP

Row = Mapping[str, Any]
"""One row of a table, times in milliseconds since the Unix epoch."""

HIGHEST_VERSION = 2**62
"""No ledger counts further: a greater version in a file is not believed."""
SETTLED_VIDEOS = frozenset({VideoState.STORED, VideoState.LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """The rows of one partition of one table."""

    table: str
    rows: pa.Table
    index: Mapping[str, int]
    """The number of each job's row."""

    def of(self, job_ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those of these jobs that the table has."""
        there = [job_id for job_id in job_ids if job_id in self.index]
        picked = self.rows.take(pa.array([self.index[job_id] for job_id in there], pa.int64()))
        return dict(zip(there, picked.to_pylist(), strict=True))

    def ended(self) -> set[str]:
        """Return the ids of the jobs that the table shows as ended. All tables but ``statuses`` have no others."""
        return set(self._with("state", FINAL_STATES) if self.table == "statuses" else self.index)

    def settled(self) -> set[str]:
        """Return the ids whose row does not change any more: of ended jobs, in ``videos`` of stored and lost videos."""
        return self._with("video_state", SETTLED_VIDEOS) if self.table == VIDEOS else self.ended()

    @property
    def version(self) -> int:
        """Return the highest version of a row; 0 where none has any."""
        versions = (version for version in self._column("version") if version is not None)
        return max((version for version in versions if version < HIGHEST_VERSION), default=0)

    def _with(self, column: str, wanted: frozenset[Any]) -> set[str]:
        values = self._column(column)
        return {job_id for job_id, row in self.index.items() if values and values[row] in wanted}

    def _column(self, name: str) -> list[Any]:
        return self.rows.column(name).to_pylist() if name in self.rows.schema.names else []


def read_rows(root: StorageRoot, file: TableFile, columns: Sequence[str] | None = None) -> TableRows:
    """Read a table's file, or those of some columns that it has.

    Raises `StorageError`, naming the file, when it cannot be read or a column has another type than ours.
    """
    read = read_table(root, file.relative, None if columns is None else ["_id", *columns])
    uri = root.uri(file.relative)
    if read is None or read.schema.names.count("_id") != 1:
        raise StorageError(f"{uri} is gone, or has no column _id and is no table of this package.")
    schema = TABLES[file.table].schema
    plain: dict[str, pa.ChunkedArray] = {}
    try:
        for name in dict.fromkeys(read.schema.names):
            values = read.column(name)  # KeyError for a name that stands twice
            if name in schema.names:
                values = values.cast(schema.field(name).type)
            plain[name] = values.cast(pa.int64()) if values.type == TIMESTAMP else values
    except (pa.ArrowException, KeyError) as error:
        raise StorageError(f"{uri} has a column of another type than akool/{file.table}: {error}.") from error
    index = {job_id: row for row, job_id in enumerate(plain["_id"].to_pylist()) if job_id is not None}
    return TableRows(table=file.table, rows=pa.table(plain).combine_chunks(), index=index)
