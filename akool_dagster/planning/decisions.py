"""Decides which partitions to land now, from facts of the ledger and of Dagster. All times are milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, takewhile, zip_longest

from akool_dagster.base.partitions import END_OF_TIME, PartitionGrid
from akool_dagster.ledger.records import DirtyPartition, DueVideos, LandingKind, LeaseFacts

SHARE_OF_RUN = 10
"""Tables wait this many times as long as their last successful run took: they take a tenth of the time at most."""
BACK_OFF_MS = 60_000
"""The wait after n failures in a row is this times 2^n, from the second failure on."""
LONGEST_WAIT_MS = 3_600_000
RUN_START_MS = 60_000
"""The least time that a launched run has until it must have its lease."""
REQUESTS_PER_TICK = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """What one kind of landing has to land of a partition."""

    kind: LandingKind
    key: str
    version: int = 0
    """The dirty version; 0 when only videos are due."""
    due: int = 0
    """Videos to download now; always 0 for the tables."""
    earliest_expiry: int = END_OF_TIME
    """When the first URL of the due videos dies."""

    @property
    def urgency(self) -> tuple[int, int]:
        """Return a sort key: videos before tables, the first to expire first, the oldest tables first."""
        return self.earliest_expiry, self.version


class RunStage(StrEnum):
    """How far a run has come."""

    QUEUED = "queued"  # waits for a slot
    UNFINISHED = "unfinished"  # launched, as Dagster shows it; a killed run stays so for ever
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DIED = "died"  # killed: ended by a signal, or by run monitoring since it never started or passed its longest time


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run of a landing's job, as Dagster shows it."""

    run_id: str
    stage: RunStage
    created_at: int
    launched_at: int
    """From when its start allowance counts."""
    started_at: int | None = None
    ended_at: int | None = None


def dirty_states(
    dirty: Iterable[DirtyPartition], due_videos: Iterable[DueVideos], grid: PartitionGrid, now_ms: int
) -> list[PartitionState]:
    """Return one state for each partition and kind that has something to land, the most urgent first.

    Jobs before the first and after the current partition are in none. The nearest partition saves their videos.
    """
    tables: dict[str, PartitionState] = {}
    videos: dict[str, PartitionState] = {}
    for partition in dirty:
        key = grid.key(partition.partition_at, now_ms)
        if key is not None and partition.tables_version:
            tables[key] = PartitionState(kind=LandingKind.TABLES, key=key, version=partition.tables_version)
        if key is not None and partition.videos_version:
            videos[key] = PartitionState(kind=LandingKind.VIDEOS, key=key, version=partition.videos_version)
    for hour in due_videos:
        key = grid.saving_key(hour.hour_at, now_ms)
        if key is not None:
            state = videos.get(key) or PartitionState(kind=LandingKind.VIDEOS, key=key)
            expiry = min(state.earliest_expiry, hour.earliest_expiry)
            videos[key] = replace(state, due=state.due + hour.due, earliest_expiry=expiry)
    return sorted([*tables.values(), *videos.values()], key=lambda state: state.urgency)


def start_allowance_ms(slowest_start_ms: int) -> int:
    """Return how long a launched run may take to get its lease before it counts as dead.

    ``slowest_start_ms``: the longest time that a run of late has taken; 0 when none is known.
    """
    return min(max(RUN_START_MS, 2 * slowest_start_ms), LONGEST_WAIT_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether to ask for a run of a dirty partition now."""

    state: PartitionState
    reason_to_wait: str | None = None
    """Why no run is asked for, in a few words; None: ask for one."""
    last_asked_at: int = 0
    """When the partition's last run was created; 0 when none is known."""


def decide(
    state: PartitionState,
    runs: Sequence[RunFacts],
    lease: LeaseFacts | None,
    now_ms: int,
    *,
    interval_ms: int,
    start_ms: int,
) -> Decision:
    """Decide for one dirty partition, from its runs (newest first) and its last lease.

    ``interval_ms``: the least time between two landings. ``start_ms``: how long a launched run may take to get its
    lease. A run that died without failing blocks nothing, and counts for neither spacing nor back-off.
    """
    return Decision(
        state=state,
        reason_to_wait=_reason_to_wait(state.kind, runs, lease, now_ms, interval_ms, start_ms),
        last_asked_at=runs[0].created_at if runs else 0,
    )


def _reason_to_wait(
    kind: LandingKind,
    runs: Sequence[RunFacts],
    lease: LeaseFacts | None,
    now_ms: int,
    interval_ms: int,
    start_ms: int,
) -> str | None:
    if lease is not None and lease.is_live(now_ms):
        return f"run {lease.owner} is landing it"
    ended: list[RunFacts] = []
    leased_since = False
    for run in runs:
        if run.stage == RunStage.QUEUED:
            return f"run {run.run_id} is queued"
        had_lease = lease is not None and lease.owner == run.run_id
        # Once a run or a newer one had the lease, the lease alone tells whether the run is alive.
        leased_since = leased_since or had_lease
        if run.stage == RunStage.UNFINISHED:
            left_ms = start_ms - abs(now_ms - run.launched_at)  # a clock set back must not prolong the wait
            if not leased_since and left_ms > 0:
                return f"run {run.run_id} is starting: {left_ms / 1000:.0f} s left"
            if had_lease and lease is not None and lease.was_released:
                ended.append(run)  # it has landed or failed, and Dagster is about to say so
        elif run.stage != RunStage.DIED:
            ended.append(run)
    return _reason_to_space(kind, ended, now_ms, interval_ms) if ended else None


def _reason_to_space(kind: LandingKind, ended: Sequence[RunFacts], now_ms: int, interval_ms: int) -> str | None:
    wait_ms = interval_ms
    # Tables are written whole each time. A videos run takes only what is new, and stops after minutes when there is
    # more: it goes on at once.
    if kind == LandingKind.TABLES:
        spans = (
            run.ended_at - run.started_at
            for run in ended
            if run.stage == RunStage.SUCCEEDED and run.started_at is not None and run.ended_at is not None
        )
        wait_ms = max(wait_ms, min(SHARE_OF_RUN * next(spans, 0), LONGEST_WAIT_MS))
    since_success = takewhile(lambda run: run.stage != RunStage.SUCCEEDED, ended)
    failures = sum(run.stage == RunStage.FAILED for run in since_success)
    if failures > 1:
        wait_ms = max(wait_ms, min(BACK_OFF_MS * 2**failures, LONGEST_WAIT_MS))
    last = ended[0]
    left_ms = wait_ms - abs(now_ms - (last.ended_at or last.started_at or last.created_at))
    if left_ms <= 0:
        return None
    reason = f"asked again in {left_ms / 1000:.0f} s"
    return reason if not failures else f"{reason}, after {failures} failed run{'s' * (failures > 1)}"


def choose(decisions: Iterable[Decision], limit: int = REQUESTS_PER_TICK) -> list[PartitionState]:
    """Return the partitions to ask for, at most ``limit``.

    They take turns: the videos that expire first, the oldest tables, and the videos that were asked for longest ago,
    so that many partitions whose host is down do not keep the others waiting.
    """
    asked = sorted((one for one in decisions if one.reason_to_wait is None), key=lambda one: one.state.urgency)
    videos = [one for one in asked if one.state.kind == LandingKind.VIDEOS]
    tables = [one for one in asked if one.state.kind == LandingKind.TABLES]
    waiting = sorted(videos, key=lambda one: one.last_asked_at)
    turns = chain.from_iterable(zip_longest(videos, tables, waiting))
    return list(dict.fromkeys(one.state for one in turns if one is not None))[:limit]
