"""Which partitions to land now: facts of the ledger and of Dagster in, decisions out. All times are milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, takewhile, zip_longest

from akool_dagster.base.partitions import PartitionGrid
from akool_dagster.ledger.records import DirtyPartition, DueVideos, LandingKind, LeaseFacts

LANDING_INTERVAL_MS = 60_000
"""A partition is not asked for again for at least this long, unless the deployment says otherwise."""
SHARE_OF_RUN = 10
"""Tables wait for this many times the length of their last successful run: they take a tenth of the time at most."""
LONGEST_WAIT_MS = 3_600_000
RUN_START_MS = 60_000
"""The least time that a launched run has until it must have its lease."""
REQUESTS_PER_TICK = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """What the ledger holds of one dirty partition for one kind of landing."""

    kind: LandingKind
    key: str
    version: int = 0
    """The dirty version; 0 when only videos are due."""
    due: int = 0
    """Videos to download now; always 0 for the tables."""
    earliest_expiry: int | None = None


class RunStage(StrEnum):
    """How far a run has come."""

    QUEUED = "queued"  # waits for a slot
    UNFINISHED = "unfinished"  # launched, as Dagster shows it; a killed run stays so for ever
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DIED = "died"  # killed: ended by a signal, or by run monitoring since it never started or passed its longest time


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run of a landing's job, as Dagster tells it."""

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
    """Return every partition that has something to land, one entry a kind.

    Jobs before the first and after the current partition are in none. Their videos are saved by the nearest one.
    """
    versions: dict[LandingKind, dict[str, int]] = {kind: {} for kind in LandingKind}
    for partition in dirty:
        key = grid.key(partition.partition_at, now_ms)
        if key is not None:
            if partition.tables_version:
                versions[LandingKind.TABLES][key] = partition.tables_version
            if partition.videos_version:
                versions[LandingKind.VIDEOS][key] = partition.videos_version
    due: dict[str, int] = {}
    expiry: dict[str, int] = {}
    for videos in due_videos:
        key = grid.saving_key(videos.hour_at, now_ms)
        if key is not None:
            due[key] = due.get(key, 0) + videos.due
            expiry[key] = min(expiry.get(key, videos.earliest_expiry), videos.earliest_expiry)
    tables = [
        PartitionState(kind=LandingKind.TABLES, key=key, version=version)
        for key, version in versions[LandingKind.TABLES].items()
    ]
    manifests = versions[LandingKind.VIDEOS]
    return tables + [
        PartitionState(
            kind=LandingKind.VIDEOS,
            key=key,
            version=manifests.get(key, 0),
            due=due.get(key, 0),
            earliest_expiry=expiry.get(key),
        )
        for key in sorted(manifests.keys() | due.keys())
    ]


def start_allowance_ms(slowest_start_ms: int) -> int:
    """Return how long a launched run may take to get its lease before it counts as dead.

    ``slowest_start_ms``: the longest time that a run of late has taken; 0 when none is known.
    """
    return min(max(RUN_START_MS, 2 * slowest_start_ms), LONGEST_WAIT_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether to ask for a run of a dirty partition now, and the reason in a few words."""

    state: PartitionState
    request: bool
    reason: str
    last_asked_at: int = 0
    """When its last run was created; 0 when none is known."""


def decide(
    state: PartitionState,
    runs: Sequence[RunFacts],
    lease: LeaseFacts | None,
    now_ms: int,
    *,
    interval_ms: int = LANDING_INTERVAL_MS,
    start_ms: int = RUN_START_MS,
) -> Decision:
    """Decide for one dirty partition, from its runs (newest first) and its last lease.

    A run that died without failing blocks nothing, and counts for neither spacing nor back-off.
    """
    if lease is not None and lease.is_live(now_ms):
        return Decision(state=state, request=False, reason=f"run {lease.owner} is landing it")
    ended: list[RunFacts] = []
    leased_since = False
    for run in runs:
        if run.stage == RunStage.QUEUED:
            return Decision(state=state, request=False, reason=f"run {run.run_id} is queued")
        had_lease = lease is not None and lease.owner == run.run_id
        # Once a run or a newer one had the lease, the lease alone tells whether the run is alive.
        leased_since = leased_since or had_lease
        if run.stage == RunStage.UNFINISHED:
            left_ms = start_ms - abs(now_ms - run.launched_at)  # a clock set back must not prolong the wait
            if not leased_since and left_ms > 0:
                reason = f"run {run.run_id} is starting: {left_ms / 1000:.0f} s left"
                return Decision(state=state, request=False, reason=reason)
            if had_lease and lease is not None and lease.was_released:
                ended.append(run)  # it has landed or failed, and Dagster is about to say so
        elif run.stage != RunStage.DIED:
            ended.append(run)
    if ended:
        failures = _failures(ended)
        wait_ms = _wait_ms(state.kind, ended, failures, interval_ms)
        since_ms = abs(now_ms - _last_time(ended[0]))
        if since_ms < wait_ms:
            reason = f"asked again in {(wait_ms - since_ms) / 1000:.0f} s"
            if failures:
                reason += f", after {failures} failed run{'s' * (failures > 1)}"
            return Decision(state=state, request=False, reason=reason)
    return Decision(
        state=state,
        request=True,
        reason=f"{state.due} videos due" if state.due else "new results",
        last_asked_at=runs[0].created_at if runs else 0,
    )


def _failures(runs: Sequence[RunFacts]) -> int:
    """Return how many of the runs, newest first, failed since the last that succeeded."""
    since_success = takewhile(lambda run: run.stage != RunStage.SUCCEEDED, runs)
    return sum(run.stage == RunStage.FAILED for run in since_success)


def _wait_ms(kind: LandingKind, runs: Sequence[RunFacts], failures: int, interval_ms: int) -> int:
    wait_ms = interval_ms
    # Tables are written whole each time. A videos run takes only what is new, and stops after minutes when there is
    # more: it goes on at once.
    if kind == LandingKind.TABLES:
        spans = (
            run.ended_at - run.started_at
            for run in runs
            if run.stage == RunStage.SUCCEEDED and run.started_at is not None and run.ended_at is not None
        )
        wait_ms = max(wait_ms, min(SHARE_OF_RUN * next(spans, 0), LONGEST_WAIT_MS))
    if failures > 1:
        wait_ms = max(wait_ms, min(LANDING_INTERVAL_MS * 2**failures, LONGEST_WAIT_MS))
    return wait_ms


def _last_time(run: RunFacts) -> int:
    return max(time for time in (run.created_at, run.started_at, run.ended_at) if time is not None)


def choose(decisions: Iterable[Decision], limit: int = REQUESTS_PER_TICK) -> list[PartitionState]:
    """Return the partitions to ask for, at most ``limit``.

    They take turns: the videos that expire first, the oldest tables, and the videos that were asked for longest ago,
    so that many partitions whose host is down do not keep the others waiting.
    """
    asked = [decision for decision in decisions if decision.request]
    videos = sorted(
        (one for one in asked if one.state.kind == LandingKind.VIDEOS),
        key=lambda one: (one.state.earliest_expiry is None, one.state.earliest_expiry or 0, one.state.key),
    )
    tables = sorted((one for one in asked if one.state.kind == LandingKind.TABLES), key=lambda one: one.state.version)
    waiting = sorted(videos, key=lambda one: one.last_asked_at)
    turns = chain.from_iterable(zip_longest(videos, tables, waiting))
    return list(dict.fromkeys(one.state for one in turns if one is not None))[:limit]
