"""The sensor: decides what to land, polls what is due, and says what it did. It keeps nothing that matters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from akool_dagster.base.names import AccountNames
from akool_dagster.clock import Clock, Deadline, SystemClock
from akool_dagster.landing import (
    Decision,
    LandingKind,
    PartitionGrid,
    PartitionState,
    RunFacts,
    RunStage,
    choose,
    decide,
    dirty_states,
    lowest_revision,
    partition_states,
    to_check,
)
from akool_dagster.ledger import Counts, JobLedger, JobState, LedgerMissingError, VideoState
from akool_dagster.ledger.records import KnownLanding
from akool_dagster.storage.marker import LEDGER_METADATA, REVISION_DIGITS, REVISION_METADATA
from akool_dagster.polling import NEEDS_THE_USER, PollReport, run_poll_pass
from akool_dagster.resources import AkoolResource, JobLedgerResource

OBSERVE_EVERY_MS = 600_000
RUNS_LOOKED_AT = 8
PARTITION_TAG = "dagster/partition"

RUN_STAGES = {
    dg.DagsterRunStatus.QUEUED: RunStage.QUEUED,
    dg.DagsterRunStatus.SUCCESS: RunStage.SUCCEEDED,
    dg.DagsterRunStatus.FAILURE: RunStage.FAILED,
    dg.DagsterRunStatus.CANCELED: RunStage.FAILED,
}
"""Every other status is `RunStage.UNFINISHED`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorSettings:
    """What a sensor goes by."""

    names: AccountNames
    grid: PartitionGrid
    tables: Sequence[str]
    videos: bool
    ids_per_request: int
    tick_seconds: float
    """The whole tick's time. Dagster stops waiting for a sensor after 60 s, some proxies after 15."""
    landing_interval_seconds: float
    """How long a partition is left alone after it was landed."""
    run_start_seconds: float
    """How long a run may take from its request to its first line of work before it counts as dead."""

    @property
    def landed_assets(self) -> dict[LandingKind, Sequence[str]]:
        """Return the assets that each kind of landing writes, for the kinds that are switched on."""
        assets: dict[LandingKind, Sequence[str]] = {}
        if self.tables:
            assets[LandingKind.TABLES] = self.tables
        if self.videos:
            assets[LandingKind.VIDEOS] = ["videos"]
        return assets


def build_poll_sensor(
    settings: SensorSettings,
    jobs: Sequence[Any],  # what define_asset_job returns: its class is not public
    *,
    minimum_interval_seconds: int,
    default_status: dg.DefaultSensorStatus,
    clock: Clock | None = None,
) -> dg.SensorDefinition:
    """Return the sensor that polls one account and asks for its landings."""
    names = settings.names

    @dg.sensor(
        name=names.sensor,
        jobs=list(jobs),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        required_resource_keys={names.ledger, names.akool},
        description=(
            "Polls Akool for the pending jobs, many ids in one call, and asks for a run of every partition that has "
            "something new. Its cursor only spares repeated observations; resetting it is harmless."
        ),
    )
    def poll_results(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ledger_resource: JobLedgerResource = getattr(context.resources, names.ledger)
        try:
            ledger = ledger_resource.open()
        except LedgerMissingError as error:
            return dg.SkipReason(str(error))
        with ledger:
            akool: AkoolResource = getattr(context.resources, names.akool)
            return _Tick(context, settings, ledger, akool, clock or SystemClock()).run()

    return poll_results


class _Tick:
    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        settings: SensorSettings,
        ledger: JobLedger,
        akool: AkoolResource,
        clock: Clock,
    ) -> None:
        self._context = context
        self._settings = settings
        self._account = settings.names.prefix
        self._ledger = ledger
        self._akool = akool
        self._clock = clock
        self._deadline = Deadline(clock, settings.tick_seconds)

    def run(self) -> dg.SensorResult | dg.SkipReason:
        decisions = self._decide()
        requested = choose(decisions)
        trouble: Exception | None = None
        report = PollReport()
        try:
            report = self._poll()
        except NEEDS_THE_USER as error:
            if not requested:  # else Dagster would throw the requests away with the tick; the next one fails
                raise
            trouble = error
        grid = self._settings.grid
        counts = self._ledger.counts(self._account, grid.start_ms, grid.end_ms(self._clock.now_ms()))
        if not self._settings.videos:  # nothing waits for what nobody downloads
            counts = replace(counts, videos={})
        message = "; ".join(
            part for part in (poll_sentence(report), counts_sentence(counts), landings_sentence(decisions, requested))
        )
        if trouble is not None:
            self._context.log.error(str(trouble))
        self._context.log.info(message)
        observations, cursor = self._observation(counts)
        requests = [self._request(state) for state in requested]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else message,
            asset_events=observations,
            cursor=cursor,
        )

    def _poll(self) -> PollReport:
        with self._akool.client() as client:
            return run_poll_pass(
                self._ledger,
                client,
                self._account,
                clock=self._clock,
                deadline=self._deadline,
                ids_per_request=self._settings.ids_per_request,
            )

    def _decide(self) -> list[Decision]:
        now = self._clock.now_ms()
        kinds = self._settings.landed_assets
        states = partition_states(
            self._ledger.heads(self._account),
            self._ledger.due_video_hours(self._account) if LandingKind.VIDEOS in kinds else (),
            self._settings.grid,
            frozenset(kinds),
            now,
        )
        landings = self._ledger.landings(self._account)
        looked_up: dict[tuple[str, str], KnownLanding] = {}
        counter = self._ledger.revision()
        for state in self._in_time(to_check(states, landings.known(), now)):
            landed = self._landed_revisions(state)
            looked_up[state.kind, state.key] = KnownLanding(revision=lowest_revision(landed), checked_at=now)
            highest = max((revision or 0 for revision in landed), default=0)
            if highest > counter:  # the ledger is older than what it landed: it was restored from a backup
                landings.land_anew(*self._settings.grid.window(state.key), above=highest)
                counter = self._ledger.revision()
        landings.remember(looked_up)
        leases = {kind: self._ledger.leases(self._account).facts(kind) for kind in kinds}
        return [
            decide(
                state,
                self._runs(state),
                leases[state.kind].get(state.key),
                now,
                ask_again_ms=int(self._settings.landing_interval_seconds * 1000),
                run_start_ms=int(self._settings.run_start_seconds * 1000),
            )
            for state in self._in_time(dirty_states(states, looked_up))
        ]

    def _in_time(self, states: Sequence[PartitionState]) -> Iterator[PartitionState]:
        """Yield the states, but no more once a quarter of the tick is over: Dagster's storage may be far away."""
        deadline = Deadline(self._clock, self._settings.tick_seconds / 4)
        for number, state in enumerate(states):
            if number and deadline.expired():
                return
            yield state

    def _landed_revisions(self, state: PartitionState) -> list[int | None]:
        names = self._settings.landed_assets[state.kind]
        return [self._landed_revision(name, state.key) for name in names]

    def _landed_revision(self, name: str, partition_key: str) -> int | None:
        records = self._context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(self._settings.names.asset(name)), asset_partitions=[partition_key]),
            limit=1,
        ).records
        materialization = records[0].asset_materialization if records else None
        if materialization is None:
            return None
        metadata = materialization.metadata
        ledger, revision = metadata.get(LEDGER_METADATA), metadata.get(REVISION_METADATA)
        if ledger is None or revision is None or ledger.value != self._ledger.ledger_id:
            return None
        number = revision.value
        # Anybody may report a materialisation, with any number.
        return number if isinstance(number, int) and 0 <= number < 10**REVISION_DIGITS else None

    def _runs(self, state: PartitionState) -> list[RunFacts]:
        records = self._context.instance.get_run_records(
            dg.RunsFilter(job_name=self._settings.names.job(state.kind), tags={PARTITION_TAG: state.key}),
            limit=RUNS_LOOKED_AT,
        )
        return [
            RunFacts(
                run_id=record.dagster_run.run_id,
                stage=RUN_STAGES.get(record.dagster_run.status, RunStage.UNFINISHED),
                created_at=int(record.create_timestamp.timestamp() * 1000),
                started_at=_milliseconds(record.start_time),
                ended_at=_milliseconds(record.end_time),
            )
            for record in records
        ]

    def _request(self, state: PartitionState) -> dg.RunRequest:
        # No run_key: a key whose run failed would never run again.
        return dg.RunRequest(
            job_name=self._settings.names.job(state.kind),
            partition_key=state.key,
            tags={"akool/account": self._account, "akool/landing": state.kind.value},
        )

    def _observation(self, counts: Counts) -> tuple[list[dg.AssetObservation], str]:
        digest = _digest(counts)
        now = self._clock.now_ms()
        last = _last_observation(self._context.cursor)
        in_flight = counts.pending or counts.videos.get("pending", 0)
        if last is not None:
            observed_at, observed = last
            is_recent = 0 <= now - observed_at < OBSERVE_EVERY_MS
            # While something is in flight its age grows, though no count may change.
            if is_recent if in_flight else observed == digest:
                return [], self._context.cursor or ""
        observation = dg.AssetObservation(dg.AssetKey(self._settings.names.asset("jobs")), metadata=observation_metadata(counts))
        return [observation], json.dumps({"observed_at": now, "counts": digest})


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def _digest(counts: Counts) -> dict[str, Any]:
    return {
        "states": dict(counts.states),
        "pending_statuses": dict(counts.pending_statuses),
        "videos": dict(counts.videos),
        "in_no_partition": counts.before_first_partition,
        "in_partitions_to_come": counts.after_current_partition,
    }


def _last_observation(cursor: str | None) -> tuple[int, Any] | None:
    try:
        last = json.loads(cursor or "")
        return int(last["observed_at"]), last["counts"]
    except (ValueError, KeyError, TypeError):
        return None


def observation_metadata(counts: Counts) -> dict[str, int | float]:
    """Return an account's counts as metadata of an observation of its jobs; ages in seconds."""
    metadata: dict[str, int | float] = {f"akool/jobs_{state}": counts.states.get(state, 0) for state in JobState}
    metadata |= {f"akool/pending_{label}": number for label, number in counts.pending_statuses.items()}
    metadata |= {f"akool/videos_{state}": counts.videos.get(state, 0) for state in VideoState}
    return metadata | {
        "akool/oldest_pending_seconds": (counts.oldest_pending_ms or 0) / 1000,
        "akool/overdue": counts.overdue,
        "akool/in_no_partition": counts.before_first_partition,
        "akool/in_partitions_to_come": counts.after_current_partition,
    }


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def poll_sentence(report: PollReport) -> str:
    """Return what a poll pass did, for the tick's log and its skip message."""
    recorded = report.recorded
    found = {
        "completed": recorded.completed,
        "failed": recorded.failed,
        "missing": recorded.missing,
        "abandoned": recorded.abandoned,
        "unreadable": report.unreadable,
    }
    changed = ", ".join(f"{number} {what}" for what, number in found.items() if number)
    sentence = f"polled {_number(report.polled, 'id')} in {_number(report.calls, 'call')}"
    if report.polled:
        sentence += f": {changed or 'none ended'}"
    if report.polled > 1 and report.not_returned == report.polled:
        sentence += "; Akool returned none of them: does AKOOL_API_KEY belong to the account that made them?"
    return sentence if report.stopped is None else f"{sentence}; stopped early: {report.stopped}"


def counts_sentence(counts: Counts) -> str:
    """Return what is in flight, in words."""
    statuses = ", ".join(f"{number} {label}" for label, number in sorted(counts.pending_statuses.items()))
    sentence = f"{_number(counts.pending, 'job')} pending" + (f" ({statuses})" if statuses else "")
    if counts.oldest_pending_ms is not None:
        sentence += f", the oldest for {counts.oldest_pending_ms / 60_000:.0f} min"
    if counts.overdue:
        sentence += f", {counts.overdue} overdue"
    if counts.before_first_partition:
        sentence += f", {counts.before_first_partition} in no partition"
    if counts.after_current_partition:
        sentence += f", {counts.after_current_partition} in partitions to come (tracked under a clock that went ahead)"
    videos = counts.videos.get("pending", 0)
    if videos:
        sentence += f", {_number(videos, 'video')} to download"
        if counts.videos_waiting:
            sentence += f" ({counts.videos_waiting} not yet to be tried again)"
    return sentence


def landings_sentence(decisions: Sequence[Decision], requested: Sequence[PartitionState]) -> str:
    """Return which landings are asked for and what the others wait for."""
    if not decisions:
        return "nothing to land from earlier ticks"
    waiting = [one for one in decisions if one.state not in requested]
    sentence = f"{_number(len(requested), 'landing')} requested"
    if waiting:
        first = waiting[0]
        why = first.reason if not first.request else "more than one tick's requests"
        sentence += f", {len(waiting)} wait (such as {first.state.kind} of {first.state.key}: {why})"
    return sentence
