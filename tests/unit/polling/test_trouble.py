from __future__ import annotations

from collections.abc import Sequence

import pytest

from akool_dagster.api.errors import (
    AkoolAccountError,
    AkoolConfigurationError,
    AkoolCredentialsError,
    AkoolDeadlineError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
)
from akool_dagster.ledger import JobState
from akool_dagster.polling.call_plan import FAILURES_BEFORE_STOP
from akool_dagster.polling.schedule import LONGEST_PAUSE_MS, PAUSE_AFTER_THROTTLE_MS, SHORTEST_CALL_SECONDS
from tests.clock import FakeClock
from tests.scripted_api import HangingApi, ScriptedApi, job_id, row
from tests.unit.polling.helpers import IDS, PROCESSING, ROWS, Passes, failing, refused

HTTP_500 = AkoolTransientError("HTTP 500.")
DAY = 86_400


@pytest.fixture(autouse=True)
def tracked(passes: Passes) -> None:
    passes.track(IDS)


# The account or the ids?


@pytest.mark.parametrize("code", [1003, 1009])
def test_a_refusal_of_every_id_may_be_the_account_and_is_no_miss(passes: Passes, clock: FakeClock, code: int) -> None:
    for _ in range(7):
        report = passes.poll(ScriptedApi({}, poison=refused(*range(12), code=code)), ids_per_request=4)
        assert report.recorded.changed == report.not_returned == 0
        clock.advance(600)
    assert f"code {code}" in (report.stopped or "")
    assert "AKOOL_API_KEY belongs to the account that made the jobs" in (report.stopped or "")
    assert {(job.state, job.misses) for job in passes.jobs().values()} == {(JobState.PENDING, 0)}
    assert passes.poll(ScriptedApi(ROWS)).recorded.completed == 12


def test_ids_of_a_refused_account_are_asked_for_again_in_five_minutes(passes: Passes) -> None:
    many = [job_id(number) for number in range(100, 200)]
    passes.track(many)
    api = ScriptedApi({}, before=failing(refused(0, code=1003)[IDS[0]]))
    passes.poll(api, ids_per_request=100)
    assert api.calls == FAILURES_BEFORE_STOP
    waits = passes.waits()
    asked = {identifier for call in api.asked for identifier in call}
    alone = {call[0] for call in api.asked if len(call) == 1}
    assert {waits[one] for one in asked - alone} == {300.0}
    assert {waits[one] for one in waits.keys() - asked} <= {0}


@pytest.mark.parametrize("code", [1003, 1009])
@pytest.mark.parametrize("ids_per_request", [1, 4, 12])
def test_a_refusal_beside_an_answer_is_a_miss(passes: Passes, code: int, ids_per_request: int) -> None:
    api = ScriptedApi(ROWS, poison=refused(0, 1, 2, code=code))
    report = passes.poll(api, ids_per_request=ids_per_request)
    assert (report.recorded.completed, report.not_returned, report.stopped) == (9, 3, None)
    jobs = passes.jobs()
    assert [(jobs[one].misses, jobs[one].last_code) for one in IDS[:3]] == [(1, code)] * 3


@pytest.mark.parametrize("code", [1008, 1014])
def test_content_that_does_not_exist_is_a_miss_whatever_else_was_answered(passes: Passes, code: int) -> None:
    report = passes.poll(ScriptedApi({}, poison=refused(*range(12), code=code)), ids_per_request=4)
    assert (report.not_returned, report.stopped) == (12, None)
    assert {job.misses for job in passes.jobs().values()} == {1}


# Throttling


@pytest.mark.parametrize("retry_after", [7.5, None, 999_999_999.0])
def test_a_throttle_ends_the_pass_and_the_next_one_waits(
    passes: Passes, clock: FakeClock, retry_after: float | None
) -> None:
    pause_ms = PAUSE_AFTER_THROTTLE_MS if retry_after is None else min(retry_after * 1000, LONGEST_PAUSE_MS)
    api = ScriptedApi(ROWS, before=failing(AkoolThrottledError("Too often.", retry_after=retry_after), 2))
    report = passes.poll(api, ids_per_request=4)
    assert api.calls == 2
    assert passes.settled() == IDS[:4]
    assert passes.due() == IDS[4:]
    assert "Too often." in (report.stopped or "")
    clock.advance(pause_ms / 1000 - 1)
    assert "another 1 s" in (passes.poll(api).stopped or "")
    assert api.calls == 2
    clock.advance(1)
    assert passes.poll(api).recorded.completed == 8


def test_a_pause_that_was_noted_under_a_wrong_clock_does_not_count(passes: Passes, clock: FakeClock) -> None:
    passes.account.polling.hold(clock.now_ms() + DAY * 1000)
    assert passes.poll(ScriptedApi(ROWS)).recorded.completed == 12


def test_answers_that_come_beside_a_throttle_are_kept(passes: Passes) -> None:
    api = ScriptedApi(ROWS, before=failing(AkoolThrottledError("Slow."), 3))
    report = passes.poll(api, ids_per_request=2, concurrent_requests=4)
    assert report.recorded.completed == 2 * (api.calls - 1) == len(passes.settled())
    assert len(passes.due()) == 12 - report.recorded.completed


# What only the user can mend


@pytest.mark.parametrize("leaf", [AkoolCredentialsError, AkoolAccountError, AkoolConfigurationError])
@pytest.mark.parametrize("call", [1, 3])
def test_what_only_the_user_can_mend_leaves_every_unasked_job_pending_and_due(
    passes: Passes, leaf: type[AkoolError], call: int
) -> None:
    with pytest.raises(leaf, match="Fix the key"):
        passes.poll(ScriptedApi(ROWS, before=failing(leaf("Fix the key."), call)), ids_per_request=4)
    assert passes.settled() == IDS[: 4 * (call - 1)]
    assert passes.due() == IDS[4 * (call - 1) :]
    assert {job.misses for job in passes.jobs().values()} == {0}


def test_a_refused_key_ends_a_pass_of_several_calls_at_once_too(passes: Passes) -> None:
    before = passes.jobs()
    api = ScriptedApi({}, before=failing(AkoolCredentialsError("The key.")))
    with pytest.raises(AkoolCredentialsError):
        passes.poll(api, ids_per_request=1, concurrent_requests=4)
    assert api.calls <= 4
    assert passes.jobs() == before


# What passes by itself


@pytest.mark.parametrize("error", [HTTP_500, AkoolResponseError("HTTP 418."), AkoolResponseError("?", code=4711)])
def test_one_failed_call_costs_two_calls_and_nobody_an_answer(passes: Passes, error: AkoolError) -> None:
    api = ScriptedApi(ROWS, before=failing(error, 2))
    assert passes.poll(api, ids_per_request=4).stopped is None
    assert passes.settled() == IDS
    assert api.calls == 3 + 2


def test_a_call_size_is_halved_at_once_and_doubled_by_answers(passes: Passes, clock: FakeClock) -> None:
    sizes: list[dict[str, int]] = []

    def first_two_fail(number: int, ids: Sequence[str]) -> AkoolError | None:
        sizes.append(passes.sizes())
        return HTTP_500 if number in (1, 2) else None

    api = ScriptedApi(PROCESSING, before=first_two_fail)
    passes.poll(api, ids_per_request=12)
    assert [len(ids) for ids in api.asked] == [12, 6, 3, 3, 6]
    assert sizes[1] == dict.fromkeys(IDS, 6)
    assert sizes[2] == dict.fromkeys(IDS[:6], 3) | dict.fromkeys(IDS[6:], 6)
    assert passes.sizes() == dict.fromkeys(IDS[:6], 6)
    clock.advance(600)
    passes.poll(api, ids_per_request=12)
    assert [len(ids) for ids in api.asked[5:]] == [6, 6]
    assert passes.sizes() == {}


@pytest.mark.parametrize("concurrent_requests", [1, 4])
def test_an_outage_stops_the_pass_and_what_was_asked_comes_back_in_half_a_minute(
    passes: Passes, clock: FakeClock, concurrent_requests: int
) -> None:
    passes.track(job_id(number) for number in range(100, 600))
    api = ScriptedApi(ROWS, before=failing(AkoolTransientError("HTTP 502.")))
    report = passes.poll(api, concurrent_requests=concurrent_requests)
    assert api.calls == FAILURES_BEFORE_STOP
    assert report.stopped == "HTTP 502."
    assert passes.settled() == []
    waits = passes.waits()
    asked = {identifier for call in api.asked for identifier in call}
    alone = {call[0] for call in api.asked if len(call) == 1}
    assert {waits[one] for one in asked - alone} == {30.0}
    assert {waits[one] for one in waits.keys() - asked} == {0}


def test_an_outage_of_ten_minutes_makes_no_job_missing_or_abandoned(passes: Passes, clock: FakeClock) -> None:
    clock.advance(8 * DAY)
    for _ in range(20):
        passes.poll(ScriptedApi(ROWS, before=failing(HTTP_500)))
        clock.advance(30)
    assert {(job.state, job.misses) for job in passes.jobs().values()} == {(JobState.PENDING, 0)}
    clock.advance(600)
    assert passes.poll(ScriptedApi(ROWS)).recorded.completed == 12


@pytest.mark.parametrize("poisons", [[5], [0, 11], [3, 4, 9]])
@pytest.mark.parametrize("concurrent_requests", [1, 4])
def test_ids_that_make_akool_fail_are_parted_from_the_others_within_the_pass(
    passes: Passes, clock: FakeClock, poisons: list[int], concurrent_requests: int
) -> None:
    poison: dict[str, AkoolError] = {IDS[number]: HTTP_500 for number in poisons}
    passes.poll(ScriptedApi(ROWS, poison=poison), concurrent_requests=concurrent_requests)
    assert passes.settled() == [identifier for identifier in IDS if identifier not in poison]
    for identifier in poison:
        job = passes.jobs()[identifier]
        assert (job.misses, job.call_size, job.last_error) == (0, 1, "HTTP 500.")
    clock.advance(600)
    later = job_id(99)
    passes.track([later])
    api = ScriptedApi({later: row(later)}, poison=poison)
    passes.poll(api)
    assert api.asked[0] == (later,)
    assert later in passes.settled()


def test_a_job_that_only_fails_grows_too_old_once_others_were_answered(passes: Passes, clock: FakeClock) -> None:
    poison: dict[str, AkoolError] = {IDS[0]: HTTP_500}
    clock.advance(8 * DAY)
    for number in range(2):
        passes.track([job_id(50 + number)])
        passes.poll(ScriptedApi({job_id(50 + number): row(job_id(50 + number))} | PROCESSING, poison=poison))
        clock.advance(600)
    assert passes.jobs()[IDS[0]].state == JobState.ABANDONED


# The length of a call


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_gateway_that_refuses_long_calls_gives_the_account_a_limit_that_an_answer_lifts(
    passes: Passes, clock: FakeClock, most: int
) -> None:
    def too_long(number: int, ids: Sequence[str]) -> AkoolError | None:
        return AkoolResponseError("HTTP 413.") if len(ids) > most else None

    assert passes.poll(ScriptedApi(PROCESSING, before=too_long), ids_per_request=12).stopped is None
    assert {job.polls for job in passes.jobs().values()} == {1}
    limit = passes.account.polling.call_limit()
    assert limit is not None
    assert limit <= most
    clock.advance(600)
    api = ScriptedApi(PROCESSING, before=too_long)
    passes.poll(api, ids_per_request=12)
    assert sum(len(ids) > most for ids in api.asked) <= 1
    for _ in range(7):
        clock.advance(600)
        api = ScriptedApi(PROCESSING)
        passes.poll(api, ids_per_request=12)
    assert passes.account.polling.call_limit() is None
    assert [len(ids) for ids in api.asked] == [12]


# Time


def test_a_pass_ends_when_its_time_is_over_and_keeps_what_it_has(passes: Passes, clock: FakeClock) -> None:
    api = ScriptedApi(ROWS, before=lambda number, ids: clock.advance(30))
    report = passes.poll(api, ids_per_request=4)
    assert report.stopped == "the tick's time was over"
    assert api.calls == 2
    assert passes.settled() == IDS[:8]
    assert passes.due() == IDS[8:]
    assert passes.poll(ScriptedApi(ROWS), seconds=0).calls == 0


def test_a_call_that_the_time_ran_out_on_is_due_again_at_once(passes: Passes, clock: FakeClock) -> None:
    def slow(number: int, ids: Sequence[str]) -> AkoolError | None:
        clock.advance(40 if number == 1 else 5)
        return AkoolDeadlineError("Over.") if number == 2 else None

    report = passes.poll(ScriptedApi(ROWS, before=slow), ids_per_request=4)
    assert report.stopped == "the tick's time was over"
    assert passes.settled() == IDS[:4]
    assert passes.due() == IDS[4:]
    assert passes.sizes() == {}


@pytest.mark.parametrize("bad", [[0], [5], [0, 11]])
def test_an_id_that_akool_never_answers_holds_up_the_others_for_a_few_passes_at_most(
    passes: Passes, clock: FakeClock, bad: list[int]
) -> None:
    hangs = [IDS[number] for number in bad]
    for _ in range(4):
        passes.poll(HangingApi(ROWS, clock, hangs))
        clock.advance(30)
    assert passes.settled() == [identifier for identifier in IDS if identifier not in hangs]
    assert passes.sizes() == dict.fromkeys(hangs, 1)


def test_a_call_that_never_ends_leaves_time_to_ask_for_its_halves(passes: Passes, clock: FakeClock) -> None:
    api = HangingApi(ROWS, clock, IDS[11:])
    passes.poll(api, seconds=20)
    assert [len(ids) for ids in api.asked] == [12, 6, 6, 3, 3]  # 10 s, none, 5 s, none, the last 5 s
    assert passes.settled() == IDS[:9]


def test_what_little_time_is_left_at_the_end_of_a_pass_lowers_no_call_size(passes: Passes, clock: FakeClock) -> None:
    passes.poll(HangingApi(ROWS, clock, IDS), seconds=SHORTEST_CALL_SECONDS)
    assert passes.sizes() == {}
    assert passes.due() == IDS


# Crashes, and passes beside each other


@pytest.mark.parametrize("call", [1, 3])
def test_an_error_that_nobody_expected_is_raised_and_loses_nothing(passes: Passes, clock: FakeClock, call: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        passes.poll(ScriptedApi(ROWS, before=failing(KeyboardInterrupt(), call)), ids_per_request=4)
    assert passes.settled() == IDS[: 4 * (call - 1)]
    assert passes.poll(ScriptedApi(ROWS)).recorded.completed == 12 - 4 * (call - 1)


def test_passes_beside_each_other_never_ask_the_same_id(passes: Passes) -> None:
    inner = ScriptedApi(ROWS)

    def beside(number: int, ids: Sequence[str]) -> None:
        if number == 1:
            passes.poll(inner, ids_per_request=4)

    outer = ScriptedApi(ROWS, before=beside)
    passes.poll(outer, ids_per_request=4)
    assert sorted(identifier for call in (*outer.asked, *inner.asked) for identifier in call) == IDS
    assert (len(outer.asked), len(inner.asked)) == (1, 2)
    assert passes.settled() == IDS


def test_a_late_answer_never_moves_a_job_back(passes: Passes, clock: FakeClock) -> None:
    def overtaken(number: int, ids: Sequence[str]) -> None:
        if number == 1:
            clock.advance(121)  # the claim has run out, and another pass asks
            passes.poll(ScriptedApi(ROWS))

    passes.poll(ScriptedApi(PROCESSING, before=overtaken), seconds=600)
    assert passes.settled() == IDS
