from __future__ import annotations

from datetime import UTC, date, datetime

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.base.partitions import Granularity, PartitionGrid, partition_file_key, partition_window

HOUR = 3_600_000
DAY = 24 * HOUR
START = date(2025, 8, 1)
START_MS = PartitionGrid(Granularity.DAILY, START).start_ms

grids = st.builds(
    PartitionGrid,
    st.sampled_from(Granularity),
    st.dates(date(2020, 1, 1), date(2030, 12, 31)),
)
spans = st.integers(min_value=0, max_value=4_000 * DAY)


def length(grid: PartitionGrid) -> int:
    return {Granularity.DAILY: DAY, Granularity.HOURLY: HOUR}[grid.granularity]


@given(grids, spans, spans)
def test_a_time_lies_in_the_window_of_its_key_and_windows_leave_no_gap(
    grid: PartitionGrid, one: int, other: int
) -> None:
    at, now = grid.start_ms + min(one, other), grid.start_ms + max(one, other)
    key = grid.key(at, now)
    assert key is not None
    assert key >= grid.first_key
    first, next_first = grid.window(key)
    assert first <= at < next_first == first + length(grid)
    assert grid.key(first, now) == grid.key(next_first - 1, now) == key
    following = grid.key(next_first, now)  # none after the current partition
    assert following is None if now < next_first else grid.window(following or "")[0] == next_first
    assert grid.end_ms(at) == next_first


@given(grids, st.integers(min_value=1, max_value=10_000 * DAY))
def test_before_the_start_there_is_no_partition(grid: PartitionGrid, span: int) -> None:
    assert grid.key(grid.start_ms - span, grid.start_ms + DAY) is None
    assert grid.key(grid.start_ms, grid.start_ms + DAY) == grid.first_key
    assert grid.window(grid.first_key)[0] == grid.start_ms


@given(grids, spans, st.integers(min_value=-10_000 * DAY, max_value=10_000 * DAY))
def test_every_video_is_saved_by_the_run_of_one_partition_that_is_there(
    grid: PartitionGrid, span: int, at: int
) -> None:
    now, at = grid.start_ms + span, grid.start_ms + at
    key = grid.saving_key(at, now)
    assert key is not None
    assert key == (grid.key(at, now) or (grid.first_key if at < now else grid.key(now, now)))
    start, end = grid.saving_window(key, now)
    assert (start is None or start <= at) and at < end
    for moment in (grid.start_ms, at - length(grid), at + length(grid), now):
        other = grid.key(moment, now)
        if other is not None and other != key:
            first, last = grid.saving_window(other, now)
            assert not ((first is None or first <= at) and at < last)


def test_there_is_no_partition_at_all_before_the_first_begins() -> None:
    grid = PartitionGrid(Granularity.DAILY, START)
    assert grid.key(START_MS, START_MS - 1) is None
    assert grid.saving_key(START_MS - HOUR, START_MS - 1) is None


@pytest.mark.parametrize(
    ("granularity", "definition"),
    [
        (Granularity.DAILY, dg.DailyPartitionsDefinition(start_date="2025-02-27", end_offset=1)),
        (Granularity.HOURLY, dg.HourlyPartitionsDefinition(start_date="2025-02-27-00:00", end_offset=1)),
    ],
)
def test_the_keys_and_windows_are_those_of_dagster(
    granularity: Granularity, definition: dg.TimeWindowPartitionsDefinition
) -> None:
    grid = PartitionGrid(granularity, date(2025, 2, 27))
    now = datetime(2025, 4, 2, 13, 59, tzinfo=UTC)  # after the change to summer time, which UTC has not
    now_ms = int(now.timestamp() * 1000)

    theirs = definition.get_partition_keys(current_time=now)
    ours = [grid.key(at, now_ms) for at in range(grid.start_ms, now_ms + 1, length(grid))]

    assert ours == list(theirs)
    for key in theirs:
        window = definition.time_window_for_partition_key(key)
        assert grid.window(key) == (int(window.start.timestamp() * 1000), int(window.end.timestamp() * 1000))


WRONG_KEYS = [
    "",
    "ledger",
    "all",
    "2025-8",
    "2025-1-9",
    "2025-13-01",
    "2025-10-09-1",
    "2025-08-01-25:00",
    "2025-08-01 ",
]


@pytest.mark.parametrize("key", [*WRONG_KEYS, "2025-08-01-10:30", "2025-08-01-1000"])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_a_wrong_key_has_no_window(granularity: Granularity, key: str) -> None:
    with pytest.raises(ValueError):
        PartitionGrid(granularity, START).window(key)


@pytest.mark.parametrize("name", [*WRONG_KEYS, "2025-10-09-14:00", "2025-10-09-1430"])
def test_a_name_that_is_no_partitions_has_no_window(name: str) -> None:
    assert partition_window(name) is None


@given(grids, spans)
def test_a_file_name_tells_its_partition(grid: PartitionGrid, span: int) -> None:
    key = grid.key(grid.start_ms + span, grid.start_ms + span) or ""
    assert partition_window(key.replace(":", "")) == grid.window(key)
    assert partition_file_key(grid.window(key)) == key.replace(":", "")


def test_the_last_day_there_is_has_a_window() -> None:
    start, end = partition_window("9999-12-31") or (0, 0)
    assert end - start == DAY
