from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.base.partitions import Granularity, PartitionGrid, partition_window

HOUR = 3_600_000
DAY = 24 * HOUR
START = datetime(2025, 8, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)

grids = st.builds(
    PartitionGrid,
    st.sampled_from(Granularity),
    st.dates(date(2020, 1, 1), date(2030, 12, 31)).map(lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC)),
)
spans = st.integers(min_value=0, max_value=4_000 * DAY)


def length(grid: PartitionGrid) -> int:
    return {Granularity.DAILY: DAY, Granularity.HOURLY: HOUR}[grid.granularity]


@given(grids, spans, spans)
def test_a_moment_lies_in_the_window_of_its_key(grid: PartitionGrid, one: int, other: int) -> None:
    at, now = grid.start_ms + min(one, other), grid.start_ms + max(one, other)
    key = grid.key(at, now)
    assert key is not None
    first, next_first = grid.window(key)
    assert first <= at < next_first
    assert next_first - first == length(grid)
    assert grid.key(first, now) == grid.key(next_first - 1, now) == key
    assert key >= grid.first_key


@given(grids, spans)
def test_windows_follow_each_other_without_a_gap(grid: PartitionGrid, span: int) -> None:
    far = grid.start_ms + 5_000 * DAY
    first, next_first = grid.window(grid.key(grid.start_ms + span, far) or "")
    assert grid.window(grid.key(next_first, far) or "")[0] == next_first
    assert (grid.key(first - 1, far) is None) == (first == grid.start_ms)


@given(grids, spans)
def test_the_current_partition_is_there_and_the_next_is_not(grid: PartitionGrid, span: int) -> None:
    now = grid.start_ms + span
    end = grid.window(grid.key(now, now) or "")[1]
    assert grid.key(end - 1, now) == grid.key(now, now)
    assert grid.key(end, now) is None


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


def test_no_partition_saves_a_video_before_the_first_begins() -> None:
    assert PartitionGrid(Granularity.DAILY, START).saving_key(START_MS - HOUR, START_MS - 1) is None


def test_there_is_no_partition_at_all_before_the_first_begins() -> None:
    grid = PartitionGrid(Granularity.DAILY, START)
    assert grid.key(START_MS, START_MS - 1) is None


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
    start = datetime(2025, 2, 27, tzinfo=UTC)
    grid = PartitionGrid(granularity, start)
    now = start + timedelta(days=34, hours=13, minutes=59)  # over the change to summer time, which UTC has not
    now_ms = int(now.timestamp() * 1000)

    theirs = definition.get_partition_keys(current_time=now)
    ours = [grid.key(at, now_ms) for at in range(grid.start_ms, now_ms + 1, length(grid))]

    assert ours == list(theirs)
    for key in theirs:
        window = definition.time_window_for_partition_key(key)
        assert grid.window(key) == (int(window.start.timestamp() * 1000), int(window.end.timestamp() * 1000))


@pytest.mark.parametrize("key", ["2025-8", "2025-08-01-25:00", "yesterday", "2025-08-01 "])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_a_wrong_key_has_no_window(granularity: Granularity, key: str) -> None:
    with pytest.raises(ValueError):
        PartitionGrid(granularity, START).window(key)


@pytest.mark.parametrize(
    "start",
    [
        START.replace(hour=1),
        START.replace(microsecond=1),
        START.replace(tzinfo=None),
        START.replace(tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_partitions_start_at_midnight_utc(start: datetime) -> None:
    with pytest.raises(ValueError, match="midnight UTC"):
        PartitionGrid(Granularity.DAILY, start)


@pytest.mark.parametrize("granularity", Granularity)
def test_a_file_name_tells_its_partition(granularity: Granularity) -> None:
    grid = PartitionGrid(granularity, datetime(2025, 8, 1, tzinfo=UTC))
    key = grid.key(1_760_000_000_000, 1_760_000_000_000)
    assert key is not None
    assert partition_window(key.replace(":", "")) == grid.window(key)


@pytest.mark.parametrize("name", ["", "ledger", "2025-13-01", "2025-1-9", "2025-10-09-1", "2025-10-09-14:00", "all"])
def test_a_name_that_is_no_partitions_has_no_window(name: str) -> None:
    assert partition_window(name) is None
