"""What is known but not landed, and which partitions to run for it: facts in, requests out, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, takewhile, zip_longest

from akool_dagster.ledger.records import DueVideos, HourHead, KnownLanding, LeaseFacts

ASK_AGAIN_MS = 60_000
"""A partition is not asked for again for at least this long, unless the deployment says otherwise."""
ASK_AGAIN_SHARE = 10
"""Tables are not landed again for this many times the length of their last run: at most a tenth of the time."""
LONGEST_BACK_OFF_MS = 3_600_000
UNLEASED_RUN_MS = 900_000
"""How long a started run may take to get its lease before it counts as dead."""
REQUESTS_PER_TICK = 20
CHECKS_PER_TICK = 50
CHECK_AGAIN_MS = 86_400_000
"""How long a copy of what the event log said is trusted: a wiped event log is noticed within a day."""


END_OF_TIME = 2**62
"""Later than any moment, in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """What the ledger holds of one partition for one kind of landing."""

    kind: LandingKind
    key: str
    head: int
    due: int = 0
    """Videos to download now; always 0 for the tables."""
    earliest_expiry: int | None = None


class RunStage(StrEnum):
    """How far a run of ours has come."""

    QUEUED = "queued"
    UNFINISHED = "unfinished"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run that was asked for a partition, as Dagster tells it. Times in milliseconds."""

    run_id: str
    stage: RunStage
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None


def partition_states(
    heads: Iterable[HourHead],
    due_videos: Iterable[DueVideos],
    grid: PartitionGrid,
    kinds: frozenset[LandingKind],
    now_ms: int,
) -> list[PartitionState]:
    """Return every partition that has anything to land, for the kinds that are switched on."""
    table_heads: dict[str, int] = {}
    video_heads: dict[str, int] = {}
    for hour in heads:
        key = grid.key(hour.hour_at, now_ms)
        if key is not None:
            table_heads[key] = max(table_heads.get(key, 0), hour.head)
            video_heads[key] = max(video_heads.get(key, 0), hour.video_head)
    due: dict[str, int] = {}
    expiry: dict[str, int] = {}
    for videos in due_videos:
        key = grid.saving_key(videos.hour_at, now_ms)
        if key is not None:
            due[key] = due.get(key, 0) + videos.due
            expiry[key] = min(expiry.get(key, videos.earliest_expiry), videos.earliest_expiry)
    states: list[PartitionState] = []
    if LandingKind.TABLES in kinds:
        states += [
            PartitionState(kind=LandingKind.TABLES, key=key, head=head) for key, head in table_heads.items() if head
        ]
    if LandingKind.VIDEOS in kinds:
        states += [
            PartitionState(
                kind=LandingKind.VIDEOS,
                key=key,
                head=video_heads.get(key, 0),
                due=due.get(key, 0),
                earliest_expiry=expiry.get(key),
            )
            for key in sorted(video_heads.keys() | due.keys())
            if video_heads.get(key, 0) or due.get(key, 0)
        ]
    return states


def to_check(
    states: Iterable[PartitionState],
    known: Mapping[tuple[str, str], KnownLanding],
    now_ms: int,
    limit: int = CHECKS_PER_TICK,
) -> list[PartitionState]:
    """Return the partitions to ask the event log about: those that look dirty or were not looked at for a day.

    In rotation: never asked first, then the one asked longest ago.
    """

    def last_checked(state: PartitionState) -> int:
        landing = known.get((state.kind, state.key))
        return -1 if landing is None else landing.checked_at

    doubtful = [state for state in states if _is_doubtful(state, known.get((state.kind, state.key)), now_ms)]
    return sorted(doubtful, key=last_checked)[:limit]


def _is_doubtful(state: PartitionState, landing: KnownLanding | None, now_ms: int) -> bool:
    return (
        landing is None
        or landing.revision is None
        or landing.revision < state.head
        or not 0 <= now_ms - landing.checked_at < CHECK_AGAIN_MS
    )


def dirty_states(
    states: Iterable[PartitionState], looked_up: Mapping[tuple[str, str], KnownLanding]
) -> list[PartitionState]:
    """Return the partitions with something that has not landed, of those just looked up in the event log.

    Those with due videos are dirty whatever the event log says, and come last, the first to expire of them first.
    """
    behind: list[PartitionState] = []
    due: list[PartitionState] = []
    for state in states:
        landing = looked_up.get((state.kind, state.key))
        if state.due:
            due.append(state)
        elif landing is not None and (landing.revision is None or landing.revision < state.head):
            behind.append(state)
    return behind + sorted(due, key=lambda state: state.earliest_expiry or 0)


def lowest_revision(landed: Iterable[int | None]) -> int | None:
    """Return the revision that all of a landing's assets have reached; None when one has never landed."""
    revisions = list(landed)
    return None if None in revisions or not revisions else min(one for one in revisions if one is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether to ask for a run of a dirty partition now, and the reason in a few words."""

    state: PartitionState
    request: bool
    reason: str
    last_asked_at: int = 0
    """When its last run was asked for; 0 when none is known."""


def decide(
    state: PartitionState,
    runs: Sequence[RunFacts],
    lease: LeaseFacts | None,
    now_ms: int,
    ask_again_ms: int = ASK_AGAIN_MS,
    run_start_ms: int = UNLEASED_RUN_MS,
) -> Decision:
    """Decide for one dirty partition, from its runs (newest first) and its last lease."""
    if lease is not None and lease.is_live(now_ms):
        return Decision(state=state, request=False, reason=f"run {lease.owner} is landing it")
    leased_since = False
    for run in runs:
        if run.stage == RunStage.QUEUED:
            return Decision(state=state, request=False, reason=f"run {run.run_id} is queued")
        # A killed run stays "started" in Dagster for ever. Once it or a newer one had the lease, the lease alone tells.
        leased_since = leased_since or (lease is not None and lease.owner == run.run_id)
        if run.stage == RunStage.UNFINISHED and not leased_since and abs(now_ms - run.created_at) < run_start_ms:
            left_s = (run_start_ms - abs(now_ms - run.created_at)) / 1000
            reason = f"run {run.run_id} is starting, and counts as dead if it does nothing for another {left_s:.0f} s"
            return Decision(state=state, request=False, reason=reason)
    if runs:
        failures = _failures(runs)
        wait_ms = _wait_ms(state.kind, runs[0], failures, ask_again_ms)
        since_ms = abs(now_ms - _last_moment(runs[0]))  # a clock set back must not mean waiting for it to catch up
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


def _wait_ms(kind: LandingKind, last: RunFacts, failures: int, ask_again_ms: int) -> int:
    wait_ms = ask_again_ms
    # A landing writes the whole day each time, so a large day must not be written all the time. A videos run only
    # takes what is new, and stops after minutes when there is more: it goes on at once.
    if kind == LandingKind.TABLES and last.started_at is not None and last.ended_at is not None:
        wait_ms = max(wait_ms, min(ASK_AGAIN_SHARE * (last.ended_at - last.started_at), LONGEST_BACK_OFF_MS))
    return max(wait_ms, min(ASK_AGAIN_MS * 2**failures, LONGEST_BACK_OFF_MS)) if failures > 1 else wait_ms


def _last_moment(run: RunFacts) -> int:
    return max(moment for moment in (run.created_at, run.started_at, run.ended_at) if moment is not None)


def choose(decisions: Iterable[Decision], limit: int = REQUESTS_PER_TICK) -> list[PartitionState]:
    """Return the partitions to ask for, at most ``limit``.

    In turn: the videos that expire first, the oldest tables, and the videos that were asked for longest ago, so that
    many partitions whose host is down do not keep the others waiting.
    """
    asked = [decision for decision in decisions if decision.request]
    videos = sorted(
        (one for one in asked if one.state.kind == LandingKind.VIDEOS),
        key=lambda one: (one.state.earliest_expiry is None, one.state.earliest_expiry or 0, one.state.key),
    )
    tables = sorted((one for one in asked if one.state.kind == LandingKind.TABLES), key=lambda one: one.state.head)
    waiting = sorted(videos, key=lambda one: one.last_asked_at)
    turns = chain.from_iterable(zip_longest(videos, tables, waiting))
    return list(dict.fromkeys(one.state for one in turns if one is not None))[:limit]
