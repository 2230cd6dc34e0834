"""The sensor: decides what to land, polls what is due, and says what it did. It keeps nothing that matters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import dagster as dg
from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.base.names import AccountNames
from akool_dagster.base.partitions import PartitionGrid
from akool_dagster.ledger import AccountLedger, LandingKind, LedgerMissingError
from akool_dagster.planning.decisions import (
    REQUESTS_PER_TICK,
    Decision,
    PartitionState,
    choose,
    decide,
    dirty_states,
    start_allowance_ms,
)
from akool_dagster.planning.observation import next_observation, observation_metadata
from akool_dagster.planning.sentences import counts_sentence, landings_sentence, poll_sentence
from akool_dagster.polling.poll_pass import NEEDS_THE_USER, PollReport, run_poll_pass
from akool_dagster.resources import AkoolResource, JobLedgerResource
from akool_dagster.runs import MAX_RUNTIME_TAG, recent_runs

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

SHARE_FOR_RUNS = 0.125
"""The share of a tick's time for what Dagster's storage is asked about one kind of landing: it may be far away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorSettings:
    """The settings of one account's sensor. Raises ValueError for a number that cannot work."""

    names: AccountNames
    grid: PartitionGrid
    assets: Mapping[LandingKind, Sequence[str]]
    """What each kind of landing writes, for the kinds that are switched on."""
    lands_parquet: bool
    """Whether `ParquetIOManager` keeps the tables: only then may jobs be pruned that the tables hold."""
    max_runtime_seconds: Mapping[LandingKind, int]
    """How long a run may take before Dagster's run monitoring ends it."""
    minimum_interval_seconds: NonNegativeInt
    ids_per_request: PositiveInt
    concurrent_requests: PositiveInt
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    tick_seconds: Annotated[float, Field(gt=0, le=55)]
    """The whole tick's time. Dagster stops waiting for a sensor after 60 s, some proxies after 15."""
    landing_interval_seconds: Seconds
    """How long a partition is left alone after it was landed."""
    run_start_seconds: Seconds | None
    """How long a launched run may take to get its lease; None: twice the slowest of late, and at least 60 s."""


def build_poll_sensor(
    settings: SensorSettings,
    jobs: Sequence[Any],  # what define_asset_job returns: its class is not public
    default_status: dg.DefaultSensorStatus,
    clock: Clock,
) -> dg.SensorDefinition:
    """Return the sensor that polls one account and asks for its landings."""
    names = settings.names

    @dg.sensor(
        name=names.sensor,
        jobs=list(jobs),
        minimum_interval_seconds=settings.minimum_interval_seconds,
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
            return _Tick(context, settings, ledger.account(names.prefix), akool, clock).run()

    return poll_results


class _Tick:
    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        settings: SensorSettings,
        account: AccountLedger,
        akool: AkoolResource,
        clock: Clock,
    ) -> None:
        self._context = context
        self._settings = settings
        self._account = account
        self._akool = akool
        self._clock = clock
        self._deadline = Deadline(clock, settings.tick_seconds)

    def run(self) -> dg.SensorResult:
        landings, grid, assets = self._account.landings, self._settings.grid, self._settings.assets
        landings.settle_granularity(grid.granularity)
        merged = assets.values() if self._settings.lands_parquet else ()
        landings.set_enabled_assets([name for names in merged for name in names])
        decisions = self._decide()
        requested = choose(decisions)
        report, trouble = PollReport(), None
        try:
            report = self._poll()
        except NEEDS_THE_USER as error:
            trouble = error
        if (trouble is not None or report.recorded.changed) and not self._deadline.expired():
            # What the poll pass has just seen end need not wait for the next tick.
            late = self._decide(known={(one.state.kind, one.state.key) for one in decisions})
            requested += choose(late, REQUESTS_PER_TICK - len(requested))
            decisions += late
        if trouble is not None:
            if not requested:  # a failed tick discards its requests; the next one fails
                raise trouble
            self._context.log.error(str(trouble))
        now = self._clock.now_ms()
        counts = self._account.counts(grid.start_ms, grid.end_ms(now))
        if LandingKind.VIDEOS not in assets:  # nothing waits for what nobody downloads
            counts = replace(counts, videos={})
        message = "; ".join((poll_sentence(report), counts_sentence(counts), landings_sentence(decisions, requested)))
        self._context.log.info(message)
        cursor = next_observation(self._context.cursor, counts, now)
        observation = dg.AssetObservation(
            dg.AssetKey(self._settings.names.asset("jobs")), metadata=observation_metadata(counts)
        )
        return dg.SensorResult(
            run_requests=[self._request(state) for state in requested],
            skip_reason=None if requested else message,
            asset_events=[] if cursor is None else [observation],
            cursor=cursor or self._context.cursor,
        )

    def _poll(self) -> PollReport:
        left = self._deadline.remaining()
        # The second decision needs as much time as the first.
        seconds = max(left - 2 * SHARE_FOR_RUNS * self._settings.tick_seconds, left / 2)
        with self._akool.client() as client:
            return run_poll_pass(
                self._account,
                client,
                clock=self._clock,
                deadline=Deadline(self._clock, seconds),
                ids_per_request=self._settings.ids_per_request,
                concurrent_requests=self._settings.concurrent_requests,
                requests_per_second=self._settings.requests_per_second,
            )

    def _decide(self, known: Collection[tuple[LandingKind, str]] = ()) -> list[Decision]:
        """Decide for every dirty partition but those that are ``known``, as far as the time for each kind allows."""
        settings, landings = self._settings, self._account.landings
        videos = LandingKind.VIDEOS in settings.assets
        states = dirty_states(
            landings.dirty(settings.grid.length_ms, settings.assets.get(LandingKind.TABLES, ()), videos=videos),
            self._account.videos.due_hours() if videos else (),
            settings.grid,
            self._clock.now_ms(),
        )
        decisions: list[Decision] = []
        for kind in settings.assets:
            of_kind = [state for state in states if state.kind == kind and (kind, state.key) not in known]
            if of_kind:
                decisions += self._decide_kind(kind, of_kind)
        return decisions

    def _decide_kind(self, kind: LandingKind, states: Sequence[PartitionState]) -> list[Decision]:
        settings = self._settings
        deadline = Deadline(self._clock, SHARE_FOR_RUNS * settings.tick_seconds)
        leases = self._account.leases.facts(kind)
        runs = recent_runs(self._context.instance, settings.names.job(kind), [state.key for state in states], deadline)
        if settings.run_start_seconds is None:
            start_ms = start_allowance_ms(self._account.landings.slowest_start_ms())
        else:
            start_ms = int(settings.run_start_seconds * 1000)
        interval_ms = int(settings.landing_interval_seconds * 1000)
        now = self._clock.now_ms()
        return [
            decide(state, runs[state.key], leases.get(state.key), now, interval_ms=interval_ms, start_ms=start_ms)
            for state in states
            if state.key in runs
        ]

    def _request(self, state: PartitionState) -> dg.RunRequest:
        # No run_key: a key whose run failed would never run again.
        return dg.RunRequest(
            job_name=self._settings.names.job(state.kind),
            partition_key=state.key,
            tags={
                "akool/account": self._account.name,
                "akool/landing": state.kind.value,
                MAX_RUNTIME_TAG: str(self._settings.max_runtime_seconds[state.kind]),
            },
        )
