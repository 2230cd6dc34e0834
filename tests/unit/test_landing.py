from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, timezone

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.landing import (
    CHECK_AGAIN_MS,
    CHECKS_PER_TICK,
    Granularity,
    LandingKind,
    PartitionGrid,
    PartitionState,
    dirty_states,
    lowest_revision,
    partition_states,
    partition_window,
    to_check,
)
from akool_dagster.ledger.records import DueVideos, HourHead, KnownLanding

HOUR = 3_600_000
DAY = 24 * HOUR
START = datetime(2025, 8, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
NOW = START_MS + 70 * DAY + 5 * HOUR + 12_345
BOTH = frozenset(LandingKind)

grids = st.builds(
    PartitionGrid,
    st.sampled_from(Granularity),
    st.dates(date(2020, 1, 1), date(2030, 12, 31)).map(lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC)),
)
spans = st.integers(min_value=0, max_value=4_000 * DAY)


def length(grid: PartitionGrid) -> int:
    return {Granularity.DAILY: DAY, Granularity.HOURLY: HOUR}[grid.granularity]


# The grid


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


# What the ledger holds of each partition


def states_of(
    heads: Iterable[HourHead] = (),
    due: Iterable[DueVideos] = (),
    *,
    granularity: Granularity = Granularity.DAILY,
    kinds: frozenset[LandingKind] = BOTH,
    now: int = NOW,
) -> dict[tuple[str, str], PartitionState]:
    states = partition_states(heads, due, PartitionGrid(granularity, START), kinds, now)
    found = {(str(state.kind), state.key): state for state in states}
    assert len(found) == len(states)
    return found


def test_a_day_has_the_highest_heads_of_its_hours() -> None:
    heads = [
        HourHead(hour_at=START_MS, head=5, video_head=2),
        HourHead(hour_at=START_MS + 23 * HOUR, head=3, video_head=9),
        HourHead(hour_at=START_MS + 24 * HOUR, head=7, video_head=0),
    ]
    found = states_of(heads)
    assert {key: state.head for key, state in found.items()} == {
        ("tables", "2025-08-01"): 5,
        ("videos", "2025-08-01"): 9,
        ("tables", "2025-08-02"): 7,
    }


def test_an_hourly_grid_keeps_the_hours_apart() -> None:
    heads = [HourHead(hour_at=START_MS + hour * HOUR, head=hour, video_head=0) for hour in (1, 2)]
    found = states_of(heads, granularity=Granularity.HOURLY)
    assert [key for _, key in found] == ["2025-08-01-01:00", "2025-08-01-02:00"]


@given(
    st.lists(
        st.builds(
            HourHead,
            hour_at=st.integers(-50, 2000).map(lambda hour: START_MS + hour * HOUR),
            head=st.integers(0, 50),
            video_head=st.integers(0, 50),
        )
    )
)
def test_only_partitions_that_exist_and_have_something_are_there(heads: list[HourHead]) -> None:
    grid = PartitionGrid(Granularity.DAILY, START)
    for state in partition_states(heads, (), grid, BOTH, NOW):
        assert grid.start_ms <= grid.window(state.key)[0] <= NOW
        assert state.head > 0
        assert (state.due, state.earliest_expiry) == (0, None)


def test_due_videos_are_counted_with_the_first_to_expire() -> None:
    due = [
        DueVideos(hour_at=START_MS + hour * HOUR, due=hour, earliest_expiry=expiry)
        for hour, expiry in ((1, 300), (2, 100), (3, 200))
    ]
    (state,) = states_of((), due).values()
    assert (state.kind, state.key) == (LandingKind.VIDEOS, "2025-08-01")
    assert (state.due, state.earliest_expiry, state.head) == (6, 100, 0)


def test_videos_from_before_the_first_partition_are_saved_by_it() -> None:
    early = [DueVideos(hour_at=START_MS - 40 * DAY, due=3, earliest_expiry=7)]
    (state,) = states_of((), early).values()
    assert (state.key, state.due, state.earliest_expiry) == ("2025-08-01", 3, 7)


def test_videos_wait_while_the_first_partition_has_not_begun() -> None:
    early = [DueVideos(hour_at=START_MS - 40 * DAY, due=3, earliest_expiry=7)]
    assert states_of((), early, now=START_MS - DAY) == {}


def test_tables_of_jobs_in_no_partition_are_never_requested() -> None:
    lost = [HourHead(hour_at=START_MS - HOUR, head=5, video_head=5), HourHead(hour_at=NOW + DAY, head=6, video_head=6)]
    assert states_of(lost) == {}


@pytest.mark.parametrize(("hour_at", "day"), [(START_MS - HOUR, 0), (NOW + 400 * DAY, 70)])
def test_due_videos_of_jobs_in_no_partition_are_saved_by_the_nearest(hour_at: int, day: int) -> None:
    (found,) = states_of([], [DueVideos(hour_at=hour_at, due=1, earliest_expiry=1)]).values()
    assert (found.kind, found.key, found.due) == (LandingKind.VIDEOS, tables(day).key, 1)


@pytest.mark.parametrize("kind", list(LandingKind))
def test_a_kind_that_is_switched_off_has_no_states(kind: LandingKind) -> None:
    heads = [HourHead(hour_at=START_MS, head=5, video_head=2)]
    assert {key for key, _ in states_of(heads, kinds=frozenset({kind}))} == {kind.value}
    assert states_of(heads, kinds=frozenset()) == {}


# Which to ask the event log about


def tables(day: int, head: int = 10) -> PartitionState:
    key = (START + timedelta(days=day)).strftime("%Y-%m-%d")
    return PartitionState(kind=LandingKind.TABLES, key=key, head=head)


def videos(day: int, *, head: int = 10, due: int = 0, expiry: int | None = None) -> PartitionState:
    return PartitionState(kind=LandingKind.VIDEOS, key=tables(day).key, head=head, due=due, earliest_expiry=expiry)


def landed(
    states: Iterable[PartitionState], revision: int | None = 10, checked_at: int = NOW
) -> dict[tuple[str, str], KnownLanding]:
    known = KnownLanding(revision=revision, checked_at=checked_at)
    return {(state.kind, state.key): known for state in states}


def test_what_has_landed_and_was_checked_today_is_not_asked_about() -> None:
    states = [tables(day) for day in range(3)]
    assert to_check(states, landed(states, revision=10), NOW) == []
    assert to_check(states, landed(states, revision=11), NOW) == []


@pytest.mark.parametrize("revision", [None, 9])
def test_what_looks_behind_is_asked_about(revision: int | None) -> None:
    states = [tables(0), tables(1)]
    known = landed(states[:1]) | landed(states[1:], revision=revision)
    assert to_check(states, known, NOW) == [states[1]]


def test_one_kind_says_nothing_of_the_other() -> None:
    states = [tables(0), videos(0)]
    assert to_check(states, landed(states[:1]), NOW) == [states[1]]


def test_an_answer_is_trusted_for_a_day_and_not_longer() -> None:
    state = tables(0)
    assert to_check([state], landed([state], checked_at=NOW - CHECK_AGAIN_MS + 1), NOW) == []
    assert to_check([state], landed([state], checked_at=NOW - CHECK_AGAIN_MS), NOW) == [state]


def test_an_answer_from_the_future_is_not_trusted() -> None:
    state = tables(0)
    assert to_check([state], landed([state], checked_at=NOW + 1), NOW) == [state]


@given(st.integers(0, 130), st.integers(1, 60))
def test_every_doubtful_partition_has_its_turn(number: int, limit: int) -> None:
    states = [tables(day) for day in range(number)]
    known: dict[tuple[str, str], KnownLanding] = {}
    asked: list[PartitionState] = []
    for tick in range(-(-number // limit)):
        chosen = to_check(states, known, NOW + tick, limit)
        assert len(chosen) <= limit
        asked += chosen
        known |= landed(chosen, revision=None, checked_at=NOW + tick)
    assert sorted(asked[:number], key=lambda state: state.key) == states  # before any has its second turn


def test_a_tick_asks_about_fifty_at_most_and_the_never_asked_first() -> None:
    states = [tables(day) for day in range(80)]
    known = landed(states[:60], revision=1, checked_at=NOW - 5)
    chosen = to_check(states, known, NOW)
    assert len(chosen) == CHECKS_PER_TICK == 50
    assert chosen[:20] == states[60:]


# Which are dirty


def test_what_is_behind_its_head_is_dirty() -> None:
    states = [tables(0), tables(1), tables(2)]
    looked_up = landed(states[:1]) | landed(states[1:2], revision=9) | landed(states[2:], revision=None)
    assert dirty_states(states, looked_up) == states[1:]


def test_what_was_not_looked_up_in_this_tick_is_left_for_its_turn() -> None:
    assert dirty_states([tables(0), videos(0)], {}) == []


def test_due_videos_are_dirty_whatever_the_event_log_says() -> None:
    state = videos(0, due=2, expiry=5)
    assert dirty_states([state], {}) == dirty_states([state], landed([state], revision=99)) == [state]


def test_videos_without_due_ones_are_dirty_when_their_manifest_is_behind() -> None:
    state = videos(0, head=10)
    assert dirty_states([state], landed([state], revision=9)) == [state]
    assert dirty_states([state], landed([state], revision=10)) == []


def test_partitions_with_due_videos_come_last_and_the_first_to_expire_of_them_first() -> None:
    states = [videos(day, due=1, expiry=1000 - day) for day in range(80)]
    behind = tables(0)
    assert dirty_states([*states, behind], landed([behind], revision=0)) == [behind, *reversed(states)]


@pytest.mark.parametrize(
    ("landed_at", "lowest"),
    [([], None), ([None], None), ([3, None, 5], None), ([3], 3), ([7, 3, 5], 3), ([0, 4], 0)],
)
def test_a_landing_is_as_old_as_its_oldest_asset(landed_at: list[int | None], lowest: int | None) -> None:
    assert lowest_revision(landed_at) == lowest


@pytest.mark.parametrize("granularity", Granularity)
def test_a_file_name_tells_its_partition(granularity: Granularity) -> None:
    grid = PartitionGrid(granularity, datetime(2025, 8, 1, tzinfo=UTC))
    key = grid.key(1_760_000_000_000, 1_760_000_000_000)
    assert key is not None
    assert partition_window(key.replace(":", "")) == grid.window(key)


@pytest.mark.parametrize("name", ["", "ledger", "2025-13-01", "2025-1-9", "2025-10-09-1", "2025-10-09-14:00", "all"])
def test_a_name_that_is_no_partitions_has_no_window(name: str) -> None:
    assert partition_window(name) is None
