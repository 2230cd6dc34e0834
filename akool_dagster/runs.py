"""The runs of a landing's job, as Dagster's storage tells them."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from akool_dagster.base.clock import Deadline
from akool_dagster.planning.decisions import RunFacts, RunStage

RUNS_LOOKED_AT = 6
"""The newest of each partition: six failures in a row make the longest back-off."""
PARTITION_TAG = "dagster/partition"
MAX_RUNTIME_TAG = "dagster/max_runtime"
"""Run monitoring ends a run that goes on for longer than these seconds."""
FAILURE_REASON_TAG = "dagster/failure_reason"
OWN_FAILURES = frozenset({"STEP_FAILURE", "RUN_EXCEPTION", "JOB_INITIALIZATION_FAILURE"})
"""The reasons that a run gives itself as it fails. Whoever finds a killed run fails it without one of these."""

_STAGES = {
    dg.DagsterRunStatus.QUEUED: RunStage.QUEUED,
    dg.DagsterRunStatus.SUCCESS: RunStage.SUCCEEDED,
    dg.DagsterRunStatus.FAILURE: RunStage.FAILED,
    dg.DagsterRunStatus.CANCELED: RunStage.FAILED,
}
"""Every other status is `RunStage.UNFINISHED`."""


def recent_runs(
    instance: dg.DagsterInstance, job_name: str, keys: Sequence[str], deadline: Deadline
) -> dict[str, list[RunFacts]]:
    """Return the newest runs of a job for each of these partitions, newest first.

    That is one query. Where one partition has so many runs that they crowd out others, those are asked for one by
    one; a partition that the deadline leaves no time for is not in the answer.
    """
    limit = RUNS_LOOKED_AT * len(keys)
    records = _records(instance, job_name, keys, limit)
    runs: dict[str, list[RunFacts]] = {key: [] for key in keys}
    for record in records:
        runs[record.dagster_run.tags[PARTITION_TAG]].append(run_facts(record))
    if len(keys) > 1 and len(records) == limit:
        for key in [key for key, found in runs.items() if len(found) < RUNS_LOOKED_AT]:
            if deadline.expired():
                del runs[key]
            else:
                runs[key] = [run_facts(record) for record in _records(instance, job_name, [key], RUNS_LOOKED_AT)]
    return runs


def _records(instance: dg.DagsterInstance, job_name: str, keys: Sequence[str], limit: int) -> Sequence[dg.RunRecord]:
    return instance.get_run_records(dg.RunsFilter(job_name=job_name, tags={PARTITION_TAG: list(keys)}), limit=limit)


def run_facts(record: dg.RunRecord) -> RunFacts:
    """Return what decisions need of a run.

    A run counts as launched when it started. A run that has not started was launched at its last update if it is
    STARTING, since it may have queued for long before; else, as NOT_STARTED, when it was created.
    """
    created_at, started_at, ended_at = _ms(record.create_timestamp.timestamp()), None, None
    if record.start_time is not None:
        launched_at = started_at = _ms(record.start_time)
    elif record.dagster_run.status == dg.DagsterRunStatus.STARTING:
        launched_at = _ms(record.update_timestamp.timestamp())
    else:
        launched_at = created_at
    if record.end_time is not None:
        ended_at = _ms(record.end_time)
    stage = _STAGES.get(record.dagster_run.status, RunStage.UNFINISHED)
    if record.dagster_run.status == dg.DagsterRunStatus.FAILURE and _was_killed(record):
        stage = RunStage.DIED
    return RunFacts(
        run_id=record.dagster_run.run_id,
        stage=stage,
        created_at=created_at,
        launched_at=launched_at,
        started_at=started_at,
        ended_at=ended_at,
    )


def _was_killed(record: dg.RunRecord) -> bool:
    """Return whether a failed run was ended from outside: by a signal, or by run monitoring for its start or length."""
    reason = record.dagster_run.tags.get(FAILURE_REASON_TAG)
    if record.start_time is None:
        return reason == "START_TIMEOUT"  # else its launch failed
    return reason not in OWN_FAILURES


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
