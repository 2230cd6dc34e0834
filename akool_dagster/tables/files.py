"""The tables' Parquet files in a storage root: where they are, and what each says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from akool_dagster.landing import partition_window
from akool_dagster.ledger.records import FINAL_STATES, VideoState
from akool_dagster.ownership import LEDGER_METADATA, REVISION_DIGITS, REVISION_METADATA, LandedFile
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import TABLES

SUFFIX = ".parquet"
ENDS: Mapping[str, frozenset[str]] = {
    "state": frozenset(FINAL_STATES),
    "video_state": frozenset({VideoState.STORED}),
}
"""The columns that tell how far a job or its video has come, and what they say when that is final.

A lost video is not among them: a file that is found after all may still be stored.
"""


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


def landed_file(root: StorageRoot, relative: str, *, whole: bool = False) -> LandedFile:
    """Return what a Parquet file of ours says of itself. Raises `StorageError` when it is not readable.

    ``whole``: decode every column, where the file is, or is to be, the only copy of its rows.
    """
    return described(root, relative, read_parquet(root, relative, columns=None if whole else ["_id", *ENDS]))


def described(root: StorageRoot, relative: str, table: pa.Table) -> LandedFile:
    """Return what a table that was read from a file says of itself."""
    metadata = table.schema.metadata or {}
    ledger_id = metadata.get(LEDGER_METADATA.encode())
    revision = metadata.get(REVISION_METADATA.encode(), b"0")
    texts = [table.schema.field(index).type for index in table.schema.get_all_field_indices("_id")]
    readable = len(texts) == 1 and (pa.types.is_string(texts[0]) or pa.types.is_large_string(texts[0]))
    if not readable or not re.fullmatch(rb"[0-9]{1,%d}" % REVISION_DIGITS, revision):
        raise StorageError(
            f"{root.uri(relative)} is not a table of this package. Move it away, and bring back what was there before."
        )
    return LandedFile(
        uri=root.uri(relative),
        ledger_id=None if ledger_id is None else ledger_id.decode(),
        revision=int(revision),
        job_ids=[job_id for job_id in table.column("_id").to_pylist() if job_id is not None],
        ended_ids=ended_ids(table),
        account=relative.partition("/")[0],
    )


def ended_ids(table: pa.Table) -> list[str]:
    """Return the ids whose row shows a final end; none for a table that shows no states."""
    found: list[str] = []
    for name in ENDS.keys() & set(table.schema.names):
        rows = zip(table.column("_id").to_pylist(), table.column(name).to_pylist(), strict=True)
        found += [job_id for job_id, value in rows if job_id is not None and value in ENDS[name]]
    return found


def read_parquet(root: StorageRoot, relative: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file of the storage root, or those of some columns that it has.

    Raises `StorageError` when it is missing or no Parquet file.
    """
    return parse_parquet(root, relative, root.read_bytes(relative), columns)


def parse_parquet(root: StorageRoot, relative: str, content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Return the table in a file's content. Raises `StorageError`, naming the file, when it is no Parquet file."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        table = file.read(columns=there)
        table.validate(full=True)  # else text that is no UTF-8 is met later, where nobody expects it
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"{root.uri(relative)} cannot be read as Parquet: {error}. Bring it back from a backup; or, unless its "
            "day was pruned, move it away and materialize the partition."
        ) from error
