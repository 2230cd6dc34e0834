from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.storage import OsFiles, StorageError, StorageRoot
from akool_dagster.tables import TABLES, TableSpec
from akool_dagster.tables import files as table_files_module
from akool_dagster.tables.files import LandedTable, land, read_table, remove_rows, table_files
from akool_dagster.tables.merge import UnorderedRowsError
from tests.clock import FakeClock
from tests.integration.tables.helpers import ACCOUNT, DAY, DAY_START, RELATIVE, table_of
from tests.object_store import ObjectStore
from tests.thoroughness import thorough
from tests.unit.tables.rows import STATES, Side, merged, rank, row_of, sides

pytest_plugins = ["tests.integration.object_stores"]

RESULTS = TABLES["results"]


def landed(
    root: StorageRoot, spec: TableSpec, known: Side | pa.Table, *, forgotten: Iterable[str] = (), clock: Any = None
) -> LandedTable:
    table = known if isinstance(known, pa.Table) else table_of(spec, known.values())
    relative = f"{ACCOUNT}/{spec.name}/{DAY}.parquet"
    return land(root, relative, spec, table.to_batches(), lambda: frozenset(forgotten), clock or FakeClock())


def content(root: StorageRoot, spec: TableSpec = RESULTS) -> pa.Table:
    table = read_table(root, f"{ACCOUNT}/{spec.name}/{DAY}.parquet")
    assert table is not None
    return table


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path))


@pytest.fixture(scope="module", autouse=True)
def small_row_groups() -> Iterator[None]:
    """Let few rows be many row groups and batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files_module, "ROW_GROUP_ROWS", 3)
        patch.setattr(table_files_module, "SPOOL_ROWS", 2)
        yield


# The laws of the merge


class Hasty(OsFiles):
    """A disk that a property has not to wait for."""

    def fsync(self, path: Path) -> None:
        pass


@settings(max_examples=thorough(30, 1000))
@given(st.data())
def test_landings_of_any_ledgers_in_any_order_and_again_end_in_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    spec = data.draw(st.sampled_from(["results", "statuses", "videos"]).map(lambda name: TABLES[name]))
    # No two ledgers give one version: versions follow the clock.
    ledgers = [data.draw(sides(spec, st.sampled_from(range(number, 60, 10)))) for number in range(4)]
    stale = {one: row for one, row in ledgers[0].items() if one < "d"}  # a backup: the same versions, fewer rows
    folder = tmp_path_factory.mktemp("root")
    root, file = StorageRoot(str(folder), files=Hasty()), folder / f"{ACCOUNT}/{spec.name}/{DAY}.parquet"
    before: Side = {}
    for known in data.draw(st.permutations([*ledgers, stale])):
        last = known, landed(root, spec, known)
        now = {row["_id"]: row for row in content(root, spec).to_pylist()}
        assert before.keys() <= now.keys()  # no row disappears
        for one, row in before.items():
            assert rank(spec, now[one]) >= rank(spec, row)  # no end is taken back
        before = now
    expected = reduce(lambda file, known: merged(spec, known, file), [*ledgers, stale])
    assert content(root, spec).equals(table_of(spec, expected.values()))
    assert content(root, spec).schema.equals(spec.schema, check_metadata=True)
    written = file.read_bytes()
    assert landed(root, spec, last[0]) == last[1]
    assert file.read_bytes() == written
    assert sorted(entry.name for entry in file.parent.iterdir()) == [f".{DAY}.lock", file.name]


def test_what_was_carried_over_is_counted_with_what_waits_for_a_ledger(root: StorageRoot) -> None:
    spec = TABLES["statuses"]
    known = {
        one: row_of(spec, one, version=1, state=state) for one, state in zip("abcde", STATES["statuses"], strict=True)
    }
    assert landed(root, spec, known).carried_over == 0
    empty = landed(root, spec, {})
    assert (empty.rows, empty.carried_over, empty.carried_over_not_ended) == (5, 5, 3)
    assert empty.totals == {f"akool/{state}": 1 for state in STATES["statuses"]}


def test_forgotten_ids_are_dropped_from_both_sides_and_stay_away(root: StorageRoot) -> None:
    landed(root, RESULTS, {one: row_of(RESULTS, one, version=1) for one in "abc"})
    left = landed(root, RESULTS, {one: row_of(RESULTS, one, version=2) for one in "cd"}, forgotten="ac")
    assert content(root).column("_id").to_pylist() == ["b", "d"]
    assert (left.rows, left.carried_over) == (2, 1)


# Other schemas


def test_columns_that_an_older_version_lacked_are_null_for_the_rows_that_only_it_has(root: StorageRoot) -> None:
    old = table_of(RESULTS, [row_of(RESULTS, one, version=None) for one in "ab"])
    pq_write(root, old.drop_columns(["version", "settled_at", "uid"]))
    landed(root, RESULTS, {"b": row_of(RESULTS, "b", version=7) | {"uid": 2}})
    found = content(root)
    assert found.select(["_id", "uid", "version"]).to_pydict() == {
        "_id": ["a", "b"],
        "uid": [None, 2],
        "version": [None, 7],
    }
    assert found.schema.equals(RESULTS.schema, check_metadata=True)


def test_columns_of_a_newer_version_are_kept_and_the_version_stays_last(root: StorageRoot) -> None:
    newer = table_of(RESULTS, [row_of(RESULTS, one, version=5) for one in "abc"])
    pq_write(root, newer.append_column("mood", pa.array(["x", "y", "z"])))
    for _ in range(2):
        landed(root, RESULTS, {"a": row_of(RESULTS, "a", version=4), "c": row_of(RESULTS, "c", version=6)})
        found = content(root)
        assert found.column("mood").to_pylist() == ["x", "y", None]
        assert found.schema.names == [*RESULTS.schema.names[:-1], "mood", "version"]


@pytest.mark.parametrize("type_", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_file_that_another_tool_wrote_with_wider_types_is_merged(root: StorageRoot, type_: pa.DataType) -> None:
    theirs = table_of(RESULTS, [row_of(RESULTS, "a", version=5)])
    index = theirs.schema.get_field_index("labels")
    pq_write(root, theirs.set_column(index, "labels", theirs.column("labels").cast(type_)))
    landed(root, RESULTS, {})
    assert content(root).equals(theirs)


ODD_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
ODD = {
    "no ids": pa.table({"id": ["a"]}),
    "ids that are lists": pa.table({"_id": [["a"]]}),
    "two columns of ids": pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["_id", "_id"]),
    "ids that are no UTF-8": pa.table({"_id": ODD_TEXT}),
    "credits that are texts": pa.table({"_id": ["a"], "deduction_credit": ["many"]}),
    "ids that are not sorted": pa.table({"_id": ["b", "a"]}),
    "no Parquet": None,
}


@pytest.mark.parametrize("table", ODD.values(), ids=ODD.keys())
def test_a_file_that_cannot_be_merged_fails_the_landing_naming_it_and_stays(
    root: StorageRoot, table: pa.Table | None
) -> None:
    file = Path(root.uri(RELATIVE))
    if table is None:
        file.parent.mkdir(parents=True)
        file.write_text("<html>")
    else:
        pq_write(root, table)
    before = file.read_bytes()
    with pytest.raises((StorageError, UnorderedRowsError), match=r"2025-10-09\.parquet"):
        landed(root, RESULTS, {"a": row_of(RESULTS, "a", version=1)})
    assert file.read_bytes() == before
    assert list(file.parent.glob(".*.partial")) == []


# Two writers


class _Thawing(FakeClock):
    """Ends a frozen writer when another one first waits for it."""

    def __init__(self, thaw: threading.Event, frozen: threading.Thread) -> None:
        super().__init__()
        self._thaw, self._frozen = thaw, frozen

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._thaw.set()
        self._frozen.join()


def test_a_writer_that_freezes_while_it_merges_takes_nothing_back(root: StorageRoot) -> None:
    landed(root, RESULTS, {"a": row_of(RESULTS, "a", version=1)})
    began, thaw = threading.Event(), threading.Event()

    def frozen() -> Iterator[pa.RecordBatch]:
        began.set()
        assert thaw.wait(60)
        yield from table_of(RESULTS, [row_of(RESULTS, one, version=1) for one in "ab"]).to_batches()

    class Frozen:
        def __iter__(self) -> Iterator[pa.RecordBatch]:
            return frozen()

    thread = threading.Thread(target=land, args=(root, RELATIVE, RESULTS, Frozen(), frozenset, FakeClock()))
    thread.start()
    assert began.wait(60)
    newer = {one: row_of(RESULTS, one, version=2) for one in "ac"}
    landed(root, RESULTS, newer, clock=_Thawing(thaw, thread))
    assert content(root).select(["_id", "version"]).to_pydict() == {"_id": ["a", "b", "c"], "version": [2, 1, 2]}


class _Overtaken:
    """Rows whose reader is overtaken by other landings, so many times."""

    def __init__(self, root: StorageRoot, times: int, first_version: int = 10) -> None:
        self._root, self._left, self._versions = root, times, count(first_version)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if self._left:
            self._left -= 1
            landed(self._root, RESULTS, {"b": row_of(RESULTS, "b", version=next(self._versions))})
        yield from table_of(RESULTS, [row_of(RESULTS, one, version=1) for one in "ab"]).to_batches()


def test_in_object_storage_a_merge_that_was_overtaken_is_made_again(object_store: ObjectStore) -> None:
    root = StorageRoot(object_store.url)
    land(root, RELATIVE, RESULTS, _Overtaken(root, 2), frozenset, FakeClock())
    assert content(root).select(["_id", "version"]).to_pydict() == {"_id": ["a", "b"], "version": [1, 11]}
    with pytest.raises(StorageError, match="meanwhile"):
        land(root, RELATIVE, RESULTS, _Overtaken(root, 99, first_version=100), frozenset, FakeClock())


# Removing, reading, listing


def test_rows_are_removed_and_the_rest_stays_as_it_was(root: StorageRoot) -> None:
    assert remove_rows(root, RELATIVE, ["a"], FakeClock()) == 0
    landed(root, RESULTS, {one: row_of(RESULTS, one, version=1) for one in "abcdefg"})
    before = content(root)
    file = Path(root.uri(RELATIVE))
    untouched = file.stat().st_mtime_ns
    assert remove_rows(root, RELATIVE, ["x"], FakeClock()) == 0
    assert file.stat().st_mtime_ns == untouched
    assert remove_rows(root, RELATIVE, ["a", "f", "x"], FakeClock()) == 2
    assert content(root).equals(before.filter([one not in "af" for one in "abcdefg"]))


def test_some_columns_of_a_file_are_read_as_far_as_it_has_them(root: StorageRoot) -> None:
    assert read_table(root, RELATIVE) is None
    pq_write(root, pa.table({"_id": ["a"], "uid": [1]}))
    assert read_table(root, RELATIVE, ["uid", "labels"]) == pa.table({"uid": [1]})


def test_the_files_of_partitions_are_listed_and_nothing_else(root: StorageRoot) -> None:
    landed(root, RESULTS, {})
    for name in ("9999-12-32.parquet", "notes.txt", "x.parquet"):
        Path(root.uri(f"{ACCOUNT}/results/{name}")).touch()
    (found,) = table_files(root, ACCOUNT)
    assert (found.table, found.key, found.relative, found.start) == ("results", DAY, RELATIVE, DAY_START)


def pq_write(root: StorageRoot, table: pa.Table) -> None:
    file = Path(root.uri(RELATIVE))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
