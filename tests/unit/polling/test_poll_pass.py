from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.ledger import JobLedger, JobState, TrackRequest
from tests.clock import FakeClock
from tests.scripted_api import ScriptedApi, job_id, refusal, row
from tests.unit.polling.helpers import ACCOUNT, IDS, PROCESSING, ROWS, Passes

# Calls


@pytest.mark.parametrize("concurrent_requests", [1, 4])
@pytest.mark.parametrize(
    ("number", "ids_per_request"), [(0, 50), (1, 50), (50, 50), (51, 50), (420, 50), (7, 1), (9, 4)]
)
def test_a_pass_makes_exactly_as_many_calls_as_the_ids_fill(
    passes: Passes, number: int, ids_per_request: int, concurrent_requests: int
) -> None:
    ids = [job_id(n) for n in range(number)]
    passes.track(ids)
    api = ScriptedApi({identifier: row(identifier) for identifier in ids})

    report = passes.poll(api, ids_per_request=ids_per_request, concurrent_requests=concurrent_requests)

    assert report.calls == api.calls == ceil(number / ids_per_request)
    assert report.polled == report.recorded.completed == number
    assert report.stopped is None
    assert sorted(identifier for call in api.asked for identifier in call) == ids
    assert all(len(call) <= ids_per_request for call in api.asked)


@pytest.mark.parametrize(
    "options", [{"ids_per_request": 0}, {"concurrent_requests": 0}, {"requests_per_second": 0}], ids=str
)
def test_a_pass_needs_at_least_one_id_a_call_and_one_call(passes: Passes, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        passes.poll(ScriptedApi({}), **options)


def test_what_is_due_longest_is_asked_first_and_what_is_not_due_is_not_asked(passes: Passes, clock: FakeClock) -> None:
    late, early = [job_id(n) for n in (1, 2)], [job_id(n) for n in (8, 9)]
    passes.track(early)
    clock.advance(60)
    passes.track(late)
    api = ScriptedApi({identifier: row(identifier, status=1) for identifier in [*late, *early]})
    passes.poll(api, ids_per_request=2)
    assert api.asked == [tuple(early), tuple(late)]
    assert passes.poll(api).calls == 0


def test_another_account_is_left_alone(ledger: JobLedger, passes: Passes) -> None:
    ledger.account("other").track([TrackRequest(job_id=job_id(1))])
    assert passes.poll(ScriptedApi({job_id(1): row(job_id(1))})).polled == 0


def test_calls_run_side_by_side_but_never_more_than_told(passes: Passes) -> None:
    ids = [job_id(n) for n in range(60)]
    passes.track(ids)
    api = ScriptedApi({identifier: row(identifier) for identifier in ids})
    assert passes.poll(api, ids_per_request=2, concurrent_requests=3).recorded.completed == 60
    assert api.at_once <= 3


def test_a_rate_spaces_the_calls_and_ends_the_pass_when_the_next_call_would_be_too_late(
    passes: Passes, clock: FakeClock
) -> None:
    passes.track(IDS)
    begun: list[float] = []
    api = ScriptedApi(PROCESSING, before=lambda number, ids: begun.append(clock.monotonic()))
    report = passes.poll(api, ids_per_request=1, requests_per_second=0.25, seconds=30)
    assert begun == [0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0]
    assert report.stopped == "the tick's time was over"
    assert [job.polls for job in passes.jobs().values()] == [1] * 8 + [0] * 4


@settings(max_examples=5)
@given(number=st.integers(min_value=1, max_value=30))
def test_a_call_takes_as_many_statements_for_one_id_as_for_many(
    tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    clock = FakeClock()
    folder: Path = tmp_path_factory.mktemp("ledger")
    with JobLedger.create(f"sqlite:///{folder / 'ledger.sqlite'}", clock=clock) as ledger:
        statements: list[str] = []
        passes = Passes(ledger.account(ACCOUNT), clock)
        ids = [job_id(n) for n in range(number)]
        passes.track(ids)
        sa.event.listen(
            ledger._database.engine,  # the only way to count what reaches the database
            "before_cursor_execute",
            lambda _c, _u, statement, *_rest: statements.append(statement),
        )
        passes.poll(ScriptedApi({identifier: row(identifier) for identifier in ids}), ids_per_request=31)
        # clamp 4, pause 2, limit 2, claim 3; the call: begin, read, version, write, hours
        assert len(statements) == 4 + 2 + 2 + 3 + 5


# Answers


def test_rows_are_matched_by_id_and_not_by_position(passes: Passes) -> None:
    passes.track(IDS[:6])
    told = {0: 1, 1: 2, 2: 3, 3: 4, 4: 77}  # number five is not returned
    rows = {IDS[n]: row(IDS[n], status=status, prompt=f"prompt {n}") for n, status in told.items()}
    report = passes.poll(ScriptedApi(rows))
    found = passes.jobs()
    assert {n: found[IDS[n]].status for n in range(6)} == {**told, 5: None}
    assert passes.settled() == IDS[2:4]
    assert [found[IDS[n]].state for n in (2, 3)] == [JobState.COMPLETED, JobState.FAILED]
    assert all(f"prompt {n}" in (found[IDS[n]].payload or "") for n in told)
    assert list(found) == IDS[:6]  # not the row of an id that nobody asked for
    assert report.not_returned == 1


def test_a_missing_row_is_a_miss_and_not_an_end(passes: Passes, clock: FakeClock) -> None:
    passes.track(IDS[:1])
    for _ in range(4):
        assert passes.poll(ScriptedApi({})).recorded.missing == 0
        clock.advance(600)
    assert passes.jobs()[IDS[0]].misses == 4
    passes.poll(ScriptedApi(PROCESSING))
    assert passes.jobs()[IDS[0]].misses == 0


def test_a_completed_row_without_a_url_is_polled_again(passes: Passes, clock: FakeClock) -> None:
    passes.track(IDS[:1])
    for _ in range(5):
        assert passes.poll(ScriptedApi({IDS[0]: row(IDS[0], video_url="")})).recorded.completed == 0
        clock.advance(600)
    assert passes.poll(ScriptedApi(ROWS)).recorded.completed == 1


def test_a_row_that_cannot_be_read_leaves_its_job_pending_and_the_rest_recorded(passes: Passes) -> None:
    passes.track(IDS)
    report = passes.poll(ScriptedApi(ROWS | {IDS[1]: row(IDS[1], status={"odd": 1})}))
    assert (report.recorded.completed, report.unreadable, report.calls) == (11, 1, 1)
    odd = passes.jobs()[IDS[1]]
    assert odd.state == JobState.PENDING
    assert "status" in (odd.last_error or "")


# One bad id


@pytest.mark.parametrize("concurrent_requests", [1, 4])
def test_a_bad_id_among_fifty_is_parted_and_its_call_size_kept(
    passes: Passes, clock: FakeClock, concurrent_requests: int
) -> None:
    ids = [job_id(n) for n in range(50)]
    passes.track(ids)
    rows = {identifier: row(identifier, status=2) for identifier in ids}
    api = ScriptedApi(rows, poison={ids[17]: refusal(1014)})
    report = passes.poll(api, concurrent_requests=concurrent_requests)
    assert (report.polled, report.not_returned, report.stopped) == (50, 1, None)
    assert api.calls <= 1 + 2 * 6  # one call, then two halves at each of six levels at most
    job = passes.jobs()[ids[17]]
    assert (job.state, job.misses, job.last_code, job.call_size) == (JobState.PENDING, 1, 1014, 1)

    for _ in range(4):  # it goes missing at the fifth miss
        clock.advance(60)
        api = ScriptedApi(rows, poison={ids[17]: refusal(1014)})
        passes.poll(api, concurrent_requests=concurrent_requests)
        assert api.calls <= 7
        assert (ids[17],) in api.asked
    assert api.calls <= 5  # the ids that were parted with it are asked for with the others again
