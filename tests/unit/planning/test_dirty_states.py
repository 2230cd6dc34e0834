from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.ledger.records import DirtyPartition, DueVideos, LandingKind
from akool_dagster.planning.decisions import PartitionState, dirty_states

HOUR = 3_600_000
DAY = 24 * HOUR
GRID = PartitionGrid(Granularity.DAILY, date(2025, 8, 1))
START_MS = GRID.start_ms
NOW = START_MS + 70 * DAY + 5 * HOUR + 12_345

partitions = st.builds(
    DirtyPartition,
    partition_at=st.integers(-9, 90).map(lambda day: START_MS + day * DAY),
    tables_version=st.integers(0, 9),
    videos_version=st.integers(0, 9),
)
due_videos = st.builds(
    DueVideos,
    hour_at=st.integers(-200, 2000).map(lambda hour: START_MS + hour * HOUR),
    due=st.integers(1, 9),
    earliest_expiry=st.integers(0, 99),
)


def states_of(
    dirty: Iterable[DirtyPartition] = (), due: Iterable[DueVideos] = (), now: int = NOW
) -> dict[tuple[str, str], PartitionState]:
    states = dirty_states(dirty, due, GRID, now)
    found = {(state.kind.value, state.key): state for state in states}
    assert len(found) == len(states)
    return found


@given(
    st.lists(partitions, unique_by=lambda one: one.partition_at),
    st.lists(due_videos, unique_by=lambda one: one.hour_at),
)
def test_every_due_video_and_every_dirty_version_of_a_partition_that_exists_is_in_one_state(
    dirty: list[DirtyPartition], due: list[DueVideos]
) -> None:
    states = list(states_of(dirty, due).values())
    assert states == sorted(states, key=lambda state: (state.earliest_expiry, state.version))  # the most urgent first
    assert sum(state.due for state in states) == sum(videos.due for videos in due)
    for kind, version in ((LandingKind.TABLES, "tables_version"), (LandingKind.VIDEOS, "videos_version")):
        there = {(GRID.key(one.partition_at, NOW), getattr(one, version)) for one in dirty}
        shown = {(state.key, state.version) for state in states if state.kind == kind and state.version}
        assert shown == {(key, number) for key, number in there if key and number}
    assert all(state.version or state.due for state in states)
    assert all(GRID.start_ms <= GRID.window(state.key)[0] <= NOW for state in states)


def test_due_videos_of_a_day_are_counted_with_the_first_to_expire() -> None:
    due = [
        DueVideos(hour_at=START_MS + hour * HOUR, due=hour, earliest_expiry=expiry)
        for hour, expiry in ((1, 300), (2, 100), (3, 200))
    ]
    (state,) = states_of((), due).values()
    assert state == PartitionState(kind=LandingKind.VIDEOS, key="2025-08-01", due=6, earliest_expiry=100)


@pytest.mark.parametrize(("hour_at", "key"), [(START_MS - HOUR, "2025-08-01"), (NOW + 400 * DAY, "2025-10-10")])
def test_due_videos_of_jobs_in_no_partition_are_saved_by_the_nearest(hour_at: int, key: str) -> None:
    (found,) = states_of((), [DueVideos(hour_at=hour_at, due=1, earliest_expiry=1)]).values()
    assert (found.kind, found.key, found.due) == (LandingKind.VIDEOS, key, 1)


def test_videos_wait_while_the_first_partition_has_not_begun() -> None:
    early = [DueVideos(hour_at=START_MS - 40 * DAY, due=3, earliest_expiry=7)]
    assert states_of((), early, now=START_MS - DAY) == {}
