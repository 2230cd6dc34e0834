from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.tables import TABLES, TableSpec
from akool_dagster.tables.merge import Merge, UnorderedRowsError
from tests.integration.tables.helpers import table_of
from tests.thoroughness import thorough
from tests.unit.tables.rows import IDS, Side, merged, row_of, sides

SPECS = st.sampled_from(["results", "statuses", "videos"]).map(lambda name: TABLES[name])


def cut(table: pa.Table, lengths: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yield the table in batches of these lengths, and the rest as one."""
    start = 0
    for length in [*lengths, table.num_rows]:
        yield from table.slice(start, length).combine_chunks().to_batches()
        start += length


@settings(max_examples=thorough(60, 1000))
@given(st.data())
def test_of_two_rows_the_further_one_stays_whole_however_the_sides_are_cut_into_batches(data: st.DataObject) -> None:
    spec = data.draw(SPECS)
    ours, theirs = data.draw(sides(spec)), data.draw(sides(spec))
    forgotten = data.draw(st.sets(st.sampled_from(IDS), max_size=2))
    lengths = st.lists(st.integers(0, 3), max_size=4)
    merge = Merge(
        spec,
        cut(table_of(spec, ours.values()), data.draw(lengths)),
        cut(table_of(spec, theirs.values()), data.draw(lengths)),
        forgotten=forgotten,
    )
    found = pa.Table.from_batches(merge, spec.schema)
    expected = {one: row for one, row in merged(spec, ours, theirs).items() if one not in forgotten}
    assert found.equals(table_of(spec, expected.values()))
    carried = [row for one, row in theirs.items() if one not in ours and one not in forgotten]
    assert merge.carried_over == len(carried)
    column = spec.progress[0]
    assert merge.carried_over_not_ended == sum(row[column] in spec.open for row in carried)


def rows(spec: TableSpec, *ids: str | None) -> Side:
    return {str(number): row_of(spec, one, version=1) for number, one in enumerate(ids)}


@pytest.mark.parametrize("ids", [("b", "a"), ("a", "a"), ("a", None), ("é", "z"), (None,)])
@pytest.mark.parametrize("of_ledger", [True, False])
def test_rows_that_are_not_sorted_by_bytes_and_unique_are_refused(ids: tuple[Any, ...], of_ledger: bool) -> None:
    spec = TABLES["results"]
    odd = pa.Table.from_pylist(list(rows(spec, *ids).values()), schema=spec.schema).to_batches()
    with pytest.raises(UnorderedRowsError, match="the ledger" if of_ledger else "x.parquet"):
        list(Merge(spec, odd if of_ledger else [], [] if of_ledger else odd, file_name="x.parquet"))


def test_the_order_is_checked_across_batches() -> None:
    spec = TABLES["results"]
    odd = pa.Table.from_pylist(list(rows(spec, "b", "a").values()), schema=spec.schema)
    with pytest.raises(UnorderedRowsError):
        list(Merge(spec, cut(odd, [1]), []))
