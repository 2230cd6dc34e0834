"""The runs of a landing's job in Dagster's storage, as facts for the decisions."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from akool_dagster.base.clock import Deadline
from akool_dagster.planning.decisions import RunFacts, RunStage

RUNS_LOOKED_AT = 6
"""The newest runs of each partition: six failures in a row make the longest back-off."""
PARTITIONS_PER_QUERY = 500
PARTITION_TAG = "dagster/partition"
MAX_RUNTIME_TAG = "dagster/max_runtime"
"""Run monitoring ends a run that goes on for longer than these seconds."""
FAILURE_REASON_TAG = "dagster/failure_reason"
OWN_FAILURES = frozenset({"STEP_FAILURE", "RUN_EXCEPTION", "JOB_INITIALIZATION_FAILURE"})
"""The reasons that a run gives itself as it fails. A killed run is failed later, without one of these."""

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

    One query covers `PARTITIONS_PER_QUERY` partitions. A partition with very many runs crowds others out of the answer:
    those are asked for one by one. Partitions for which the deadline leaves no time are not in the result.
    """

    def newest(some: Sequence[str]) -> list[dg.RunRecord]:
        filters = dg.RunsFilter(job_name=job_name, tags={PARTITION_TAG: list(some)})
        return list(instance.get_run_records(filters, limit=RUNS_LOOKED_AT * len(some)))

    runs: dict[str, list[RunFacts]] = {}
    for first in range(0, len(keys), PARTITIONS_PER_QUERY):
        if first and deadline.expired():
            break
        batch = keys[first : first + PARTITIONS_PER_QUERY]
        records = newest(batch)
        found: dict[str, list[RunFacts]] = {key: [] for key in batch}
        for record in records:
            found[record.dagster_run.tags[PARTITION_TAG]].append(run_facts(record))
        if len(batch) > 1 and len(records) == RUNS_LOOKED_AT * len(batch):
            for key in [key for key in batch if len(found[key]) < RUNS_LOOKED_AT]:
                if deadline.expired():
                    del found[key]
                else:
                    found[key] = [run_facts(record) for record in newest([key])]
        runs |= found
    return runs


def run_facts(record: dg.RunRecord) -> RunFacts:
    """Return what decisions need of a run.

    A run counts as launched when it started. A run that has not started was launched at its last update if it is
    STARTING, since it may have queued for long before; else, as NOT_STARTED, when it was created.
    """
    status = record.dagster_run.status
    created = record.create_timestamp.timestamp()
    waited_until = record.update_timestamp.timestamp() if status == dg.DagsterRunStatus.STARTING else created
    is_killed = status == dg.DagsterRunStatus.FAILURE and _was_killed(record)
    return RunFacts(
        run_id=record.dagster_run.run_id,
        stage=RunStage.DIED if is_killed else _STAGES.get(status, RunStage.UNFINISHED),
        created_at=_ms(created),
        launched_at=_ms(waited_until if record.start_time is None else record.start_time),
        started_at=None if record.start_time is None else _ms(record.start_time),
        ended_at=None if record.end_time is None else _ms(record.end_time),
    )


def _was_killed(record: dg.RunRecord) -> bool:
    """Return whether a failed run was ended from outside: by a signal, or by run monitoring for its start or length."""
    reason = record.dagster_run.tags.get(FAILURE_REASON_TAG)
    if record.start_time is None:
        return reason == "START_TIMEOUT"  # else its launch failed
    return reason not in OWN_FAILURES


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
