"""What a table is: `Column` and `TableSpec`, and how a table's rows are made from jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

TIMESTAMP = pa.timestamp("ms", tz="UTC")
SPOOL_ROWS = 10_000
"""Rows that are decoded, projected and merged at a time."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, what it means, its unit where it has one, and how it is made.

    >>> Column("width", pa.int64(), "Width of the picture, as probed.", "pixels")
    """

    name: str
    type: pa.DataType
    description: str
    unit: str | None = None
    fields: tuple[str, ...] = ()
    """The job's fields that the column is made from; by default the field of the same name."""
    compute: Callable[..., pa.Array] | None = None
    """Makes the column from those fields; None: the column is the field."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the job's fields that the column is made from."""
        return self.fields or (self.name,)

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field, with description and unit in its metadata."""
        metadata = {"description": self.description} | ({"unit": self.unit} if self.unit else {})
        return pa.field(self.name, self.type, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table: one row a job, sorted and unique by ``_id``."""

    name: str
    description: str
    columns: tuple[Column, ...]
    states: frozenset[str] | None = None
    """The states of the jobs that have a row; None: every job has."""
    progress: tuple[str, tuple[frozenset[str], ...]] = ("_id", ())
    """A column and sets of its values: a row is as far as the number of sets its value is in; the further row stays."""
    open: frozenset[str] = frozenset()
    """Values of that column with which a row still waits for its ledger."""
    counted: tuple[str, Mapping[str, str]]
    """A column whose values are counted, and the metadata that each count goes to."""
    totals: Mapping[str, str] = field(default_factory=dict)
    """Numbers for a materialisation's metadata: their name to the column that is summed."""

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema: the same in every partition, whatever the rows hold."""
        return pa.schema([column.field for column in self.columns], metadata={"description": self.description})

    @property
    def sources(self) -> frozenset[str]:
        """Return the fields of a job that the table is made from."""
        own = {name for column in self.columns for name in column.sources}
        return frozenset(own if self.states is None else own | {"state"})


def project(spec: TableSpec, jobs: pa.RecordBatch) -> pa.RecordBatch:
    """Return a table's rows of a batch of jobs, in the order of the jobs; the batch has the table's sources."""
    if spec.states is not None:
        wanted = pc.is_in(jobs.column("state"), value_set=pa.array(sorted(spec.states), pa.string()))
        jobs = jobs.filter(wanted)
    arrays = []
    for column in spec.columns:
        sources = [jobs.column(name) for name in column.sources]
        arrays.append(column.compute(*sources) if column.compute else sources[0])
    return pa.RecordBatch.from_arrays(arrays, schema=spec.schema)
