"""The rows of one partition, read from its table files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables.files import TableFile, read_table

Row = Mapping[str, Any]
"""One row of a table, times in milliseconds since the Unix epoch."""

HIGHEST_VERSION = 2**62
"""No ledger counts further: a greater version in a file is not believed."""

_TIME = pa.timestamp("ms", tz="UTC")
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("_id", "state", "status_label", "failure_reason", "labels", "extra", "video_state"), pa.string()),
    **dict.fromkeys(("error", "path", "source_url"), pa.string()),
    **dict.fromkeys(("version", "status", "attempts", "bytes"), pa.int64()),
    **dict.fromkeys(("tracked_at", "queueing_seen_at", "processing_seen_at", "settled_at", "expires_at"), _TIME),
    **dict.fromkeys(("create_time", "update_time", "downloaded_at"), _TIME),
    **dict.fromkeys(("queue_seconds", "processing_seconds"), pa.float64()),
}
"""The types of the columns that a job is made of."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of one partition of one table."""

    rows: pa.Table
    index: Mapping[str, int]
    """The number of each job's row."""

    def of(self, job_ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those of these jobs that the table has."""
        there = [job_id for job_id in job_ids if job_id in self.index]
        picked = self.rows.take(pa.array([self.index[job_id] for job_id in there], pa.int64()))
        return dict(zip(there, picked.to_pylist(), strict=True))

    @property
    def version(self) -> int:
        """Return the highest version of a row; 0 where none has any."""
        if "version" not in self.rows.schema.names:
            return 0
        versions = (version for version in self.rows.column("version").to_pylist() if version is not None)
        return max((version for version in versions if version < HIGHEST_VERSION), default=0)


def read_rows(root: StorageRoot, file: TableFile, columns: Sequence[str] | None = None) -> TableRows:
    """Read a table's file, or those of some columns that it has.

    Raises `StorageError`, naming the file, when it cannot be read or a column has another type than ours.
    """
    read = read_table(root, file.relative, None if columns is None else ["_id", *columns])
    uri = root.uri(file.relative)
    if read is None or read.schema.names.count("_id") != 1:
        raise StorageError(f"{uri} is gone, or has no column _id and is no table of this package.")
    plain: dict[str, pa.ChunkedArray] = {}
    try:
        for name in dict.fromkeys(read.schema.names):
            values = read.column(name)
            if name in _TYPES:
                values = values.cast(_TYPES[name])
            plain[name] = values.cast(pa.int64()) if values.type == _TIME else values
    except (pa.ArrowException, KeyError) as error:
        raise StorageError(f"{uri} has a column of another type than akool/{file.table}: {error}.") from error
    index = {job_id: row for row, job_id in enumerate(plain["_id"].to_pylist()) if job_id is not None}
    return TableRows(pa.table(plain).combine_chunks(), index)
