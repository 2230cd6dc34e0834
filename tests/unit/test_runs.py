from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from akool_dagster.base.clock import Deadline
from akool_dagster.planning.decisions import RunFacts, RunStage
from akool_dagster.runs import MAX_RUNTIME_TAG, RUNS_LOOKED_AT, recent_runs, run_facts
from tests.clock import FakeClock

JOB = "akool_land_results"
CREATED = 1_760_000_000.0
Status = dg.DagsterRunStatus


def facts(
    status: dg.DagsterRunStatus,
    *,
    updated: float | None = None,
    started: float | None = None,
    ended: float | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunFacts:
    """Return what is made of a run; the times are seconds after it was created."""

    def at(seconds: float | None) -> float | None:
        return None if seconds is None else CREATED + seconds

    return run_facts(
        dg.RunRecord(
            storage_id=1,
            dagster_run=dg.DagsterRun(job_name=JOB, run_id="run", status=status, tags=tags or {}),
            create_timestamp=datetime.fromtimestamp(CREATED, UTC),
            update_timestamp=datetime.fromtimestamp(at(updated) or CREATED, UTC),
            start_time=at(started),
            end_time=at(ended),
        )
    )


@pytest.mark.parametrize(
    ("status", "times", "launched"),
    [
        (Status.NOT_STARTED, {"updated": 5}, 0),
        (Status.STARTING, {"updated": 500}, 500),  # it queued before
        (Status.STARTED, {"updated": 900, "started": 501}, 501),
        (Status.CANCELING, {"updated": 900, "started": 501}, 501),
        (Status.CANCELING, {"updated": 900}, 0),
    ],
)
def test_a_run_is_launched_when_it_starts_or_else_when_it_left_the_queue(
    status: dg.DagsterRunStatus, times: dict[str, Any], launched: float
) -> None:
    run = facts(status, **times)
    assert (run.stage, run.launched_at) == (RunStage.UNFINISHED, (CREATED + launched) * 1000)


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        (Status.SUCCESS, RunStage.SUCCEEDED),
        (Status.FAILURE, RunStage.FAILED),
        (Status.CANCELED, RunStage.FAILED),
    ],
)
def test_a_run_that_has_ended_says_how_and_when(status: dg.DagsterRunStatus, stage: RunStage) -> None:
    run = facts(status, started=10, ended=20.5, tags={"dagster/failure_reason": "STEP_FAILURE"})
    assert (run.stage, run.started_at, run.ended_at) == (stage, (CREATED + 10) * 1000, (CREATED + 20.5) * 1000)


@pytest.mark.parametrize(
    ("run", "stage"),
    [
        ({"ended": 185, "tags": {"dagster/failure_reason": "START_TIMEOUT"}}, RunStage.DIED),
        ({"ended": 185}, RunStage.FAILED),  # it could not be launched
        ({"started": 10, "ended": 20}, RunStage.DIED),  # a signal ended it
        ({"started": 10, "ended": 20, "tags": {"dagster/failure_reason": "RUN_WORKER_RESTART"}}, RunStage.DIED),
        ({"started": 10, "ended": 20, "tags": {"dagster/failure_reason": "STEP_FAILURE"}}, RunStage.FAILED),
        ({"started": 10, "ended": 3611, "tags": {MAX_RUNTIME_TAG: "3600"}}, RunStage.DIED),
    ],
)
def test_a_run_that_was_killed_died_and_one_that_says_why_failed(run: dict[str, Any], stage: RunStage) -> None:
    assert facts(Status.FAILURE, **run).stage == stage


# From a real instance


@dg.op
def nothing() -> None: ...


@dg.job(name=JOB)
def land_results() -> None:
    nothing()


@dg.job(name="another_job")
def another_job() -> None:
    nothing()


def create(instance: dg.DagsterInstance, key: str, job: dg.JobDefinition = land_results) -> str:
    run = instance.create_run_for_job(job, tags={"dagster/partition": key}, status=Status.SUCCESS)
    return run.run_id


def test_all_partitions_are_asked_about_at_once_and_the_newest_run_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        ids = [create(instance, key) for key in ("a", "b", "a", "no key of ours")]
        create(instance, "a", another_job)
        questions = count_questions(instance, monkeypatch)
        runs = recent_runs(instance, JOB, ["a", "b", "c"], Deadline(FakeClock(), 10))
    assert {key: [run.run_id for run in found] for key, found in runs.items()} == {
        "a": [ids[2], ids[0]],
        "b": [ids[1]],
        "c": [],
    }
    assert len(questions) == 1


def test_a_partition_with_very_many_runs_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        quiet = create(instance, "quiet")
        busy = [create(instance, "busy") for _ in range(3 * RUNS_LOOKED_AT)]
        clock = FakeClock()
        runs = recent_runs(instance, JOB, ["quiet", "never", "busy"], Deadline(clock, 10))
        assert [run.run_id for run in runs["quiet"]] == [quiet]
        assert runs["never"] == []
        assert runs["busy"][0].run_id == busy[-1]
        without_time = recent_runs(instance, JOB, ["quiet", "never", "busy"], Deadline(clock, 0))
    assert set(without_time) == {"busy"}


def count_questions(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> list[dg.RunsFilter]:
    """Return a list that gets every filter the instance is asked with."""
    questions: list[dg.RunsFilter] = []
    ask = instance.get_run_records

    def asked(filters: dg.RunsFilter, limit: int) -> Any:
        questions.append(filters)
        return ask(filters, limit=limit)

    monkeypatch.setattr(instance, "get_run_records", asked)
    return questions
