"""The merge of a table's rows in the ledger with those in its file: pure, streaming, by ``_id``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from akool_dagster.errors import AkoolDagsterError
from akool_dagster.tables.spec import TableSpec


class UnorderedRowsError(AkoolDagsterError):
    """Rows are not sorted by ``_id`` in the order of bytes, or an id is there twice or null."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"The rows of {where} are not sorted by _id, each id once, so they cannot be merged. Nothing was written."
        )


class Merge:
    """Iterate to get the merged rows, in the order of ids, as record batches; afterwards the counts are right.

    Two rows with one id: the row that is further stays whole, then the row with the greater version, then the
    ledger's. A row that only one side has stays.

    >>> merge = Merge(TABLES["results"], ledger_batches, file_batches)
    >>> merged = pa.Table.from_batches(merge)
    """

    def __init__(
        self,
        spec: TableSpec,
        ledger: Iterable[pa.RecordBatch],
        file: Iterable[pa.RecordBatch],
        *,
        file_name: str = "the file",
        forgotten: Collection[str] = (),
    ) -> None:
        """Take both sides: batches of one schema, sorted by ``_id`` in the order of bytes, each id once.

        Rows with ``forgotten`` ids are left out. Iteration raises `UnorderedRowsError` for a side that is not sorted.
        """
        self._spec = spec
        self._compared = ["version", spec.progress[0]]
        self._forgotten = pa.array(sorted(forgotten), pa.string())
        self._ledger = self._checked(ledger, "the ledger")
        self._file = self._checked(file, file_name)
        self.carried_over = 0
        """Rows that only the file has."""
        self.carried_over_not_ended = 0
        """Those of them that still wait for a ledger which knows them."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        ours, theirs = _Side(self._ledger), _Side(self._file)
        while ours.rows is not None and theirs.rows is not None:
            cut = min(ours.last_id, theirs.last_id)
            yield from self._combined(ours.take_until(cut), theirs.take_until(cut))
        yield from ours.rest()
        for rows in theirs.rest():
            yield self._counted(rows)

    def _checked(self, batches: Iterable[pa.RecordBatch], where: str) -> Iterator[pa.RecordBatch]:
        last = pa.scalar("")
        for batch in batches:
            if batch.num_rows == 0:
                continue
            ids = batch.column("_id")
            rising = pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1)), min_count=0, skip_nulls=False)
            if not (rising.as_py() and pc.less(last, ids[0]).as_py()):
                raise UnorderedRowsError(where)
            last = ids[-1]
            if len(self._forgotten):
                batch = batch.filter(pc.invert(pc.is_in(ids, value_set=self._forgotten)))
            if batch.num_rows:
                yield batch

    def _combined(self, ours: pa.RecordBatch, theirs: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        place = pc.index_in(theirs.column("_id"), value_set=ours.column("_id"))
        only_theirs = pc.is_null(place)
        self._counted(theirs.filter(only_theirs))
        kept = theirs.filter(pc.or_(only_theirs, self._is_newer(theirs, ours.select(self._compared).take(place))))
        if not kept.num_rows:
            yield ours
            return
        ours = ours.filter(pc.invert(pc.is_in(ours.column("_id"), value_set=kept.column("_id"))))
        yield from pa.Table.from_batches([ours, kept]).sort_by("_id").combine_chunks().to_batches()

    def _is_newer(self, one: pa.RecordBatch, other: pa.RecordBatch) -> pa.Array:
        far, other_far = self._progress(one), self._progress(other)
        newer = pc.greater(_version(one), _version(other))
        return pc.or_(pc.greater(far, other_far), pc.and_(pc.equal(far, other_far), newer))

    def _progress(self, rows: pa.RecordBatch) -> pa.Array:
        column, steps = self._spec.progress
        far = pa.nulls(rows.num_rows, pa.int8()).fill_null(0)
        for values in steps:
            far = pc.add(far, pc.is_in(rows.column(column), value_set=pa.array(sorted(values))).cast(pa.int8()))
        return far

    def _counted(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        self.carried_over += rows.num_rows
        waits = pc.is_in(rows.column(self._spec.progress[0]), value_set=pa.array(sorted(self._spec.open), pa.string()))
        self.carried_over_not_ended += pc.sum(waits).as_py() or 0
        return rows


class _Side:
    """One of two sorted streams, and its rows that were read and not taken yet."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.rows: pa.RecordBatch | None = next(batches, None)

    @property
    def last_id(self) -> str:
        assert self.rows is not None
        last: str = self.rows.column("_id")[-1].as_py()
        return last

    def take_until(self, last_id: str) -> pa.RecordBatch:
        """Take the rows at hand up to an id; read the next batch when no row is left."""
        assert self.rows is not None
        number = pc.sum(pc.less_equal(self.rows.column("_id"), last_id)).as_py()
        taken = self.rows.slice(0, number)
        self.rows = self.rows.slice(number) if number < self.rows.num_rows else next(self._batches, None)
        return taken

    def rest(self) -> Iterator[pa.RecordBatch]:
        while self.rows is not None:
            yield self.rows
            self.rows = next(self._batches, None)


def _version(rows: pa.RecordBatch) -> pa.Array:
    """Return the versions; a file from before there were any has 0."""
    return pc.fill_null(rows.column("version"), 0)
