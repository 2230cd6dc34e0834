from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
from akool_dagster.clock import Deadline
from akool_dagster.ledger import Job, JobLedger, JobState, TrackRequest
from akool_dagster.polling import (
    FAILURES_OF_AN_OUTAGE,
    LONGEST_PAUSE_MS,
    PAUSE_AFTER_REFUSAL_MS,
    PAUSE_AFTER_THROTTLE_MS,
    SHORTEST_CALL_SECONDS,
    PollReport,
    ResultsApi,
    run_poll_pass,
)
from akool_dagster.sensors import poll_sentence
from tests.clock import FakeClock
from tests.scripted_api import HangingApi, Hook, ScriptedApi, job_id, refusal, row

ACCOUNT = "akool"
IDS = [job_id(n) for n in range(12)]
ROWS = {identifier: row(identifier) for identifier in IDS}
Poll = Callable[..., PollReport]


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        ledger.track(ACCOUNT, [TrackRequest(job_id=identifier) for identifier in IDS])
        yield ledger


@pytest.fixture
def poll(ledger: JobLedger, clock: FakeClock) -> Poll:
    def poll(api: ResultsApi, *, seconds: float = 45.0, ids_per_request: int = 4) -> PollReport:
        return run_poll_pass(
            ledger, api, ACCOUNT, clock=clock, deadline=Deadline(clock, seconds), ids_per_request=ids_per_request
        )

    return poll


def jobs(ledger: JobLedger) -> dict[str, Job]:
    return {job.job_id: job for job in ledger.iter_jobs(ACCOUNT)}


def settled(ledger: JobLedger) -> list[str]:
    return [job.job_id for job in jobs(ledger).values() if job.state != JobState.PENDING]


def due(ledger: JobLedger, clock: FakeClock) -> list[str]:
    return [
        job.job_id
        for job in jobs(ledger).values()
        if job.state == JobState.PENDING and job.next_poll_at <= clock.now_ms()
    ]


def failing(error: BaseException, *calls: int) -> Hook:
    """Return a hook that raises at the calls with these numbers, or at every call."""
    return lambda number, ids: error if not calls or number in calls else None


def refused(*numbers: int, code: int = 1008) -> dict[str, AkoolError]:
    return {IDS[number]: refusal(code) for number in numbers}


# The account or the ids?


def test_two_calls_refused_alike_are_the_account_and_not_the_ids(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    before = jobs(ledger)
    with pytest.raises(AkoolAccountError, match=r"code 1003.*AKOOL_API_KEY.*stays pending") as caught:
        poll(ScriptedApi({}, poison=refused(*range(12), code=1003)))

    assert caught.value.code == 1003
    assert jobs(ledger) == before  # all as they were: pending, due, without a miss
    assert due(ledger, clock) == IDS
    assert ledger.poll_not_before(ACCOUNT) == clock.now_ms() + PAUSE_AFTER_REFUSAL_MS


def test_polling_is_held_for_five_minutes_after_a_refused_account(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    with pytest.raises(AkoolAccountError):
        poll(ScriptedApi({}, poison=refused(*range(12))))
    clock.advance(299)
    held = poll(ScriptedApi(ROWS))
    assert (held.calls, held.polled) == (0, 0)
    assert "another 1 s" in (held.stopped or "")
    clock.advance(1)
    assert poll(ScriptedApi(ROWS)).recorded.completed == 12


def test_one_call_refused_alike_is_recorded_when_others_are_fine(ledger: JobLedger, poll: Poll) -> None:
    report = poll(ScriptedApi(ROWS, poison=refused(0, 1, 2, 3)))

    assert report.recorded.completed == 8
    assert [(jobs(ledger)[one].misses, jobs(ledger)[one].last_code) for one in IDS[:4]] == [(1, 1008)] * 4


def test_a_lone_call_refused_alike_is_recorded(ledger: JobLedger, poll: Poll) -> None:
    poll(ScriptedApi({}, poison=refused(*range(12))), ids_per_request=50)
    assert {job.misses for job in jobs(ledger).values()} == {1}


def test_two_calls_refused_with_different_codes_are_about_their_ids(ledger: JobLedger, poll: Poll) -> None:
    poison = refused(*range(4), code=1008) | refused(*range(4, 8), code=1014)
    assert poll(ScriptedApi(ROWS, poison=poison)).recorded.completed == 4
    assert [jobs(ledger)[one].last_code for one in IDS[:8]] == [1008] * 4 + [1014] * 4


def test_an_account_that_was_answered_in_this_pass_is_not_blamed_for_bad_ids(ledger: JobLedger, poll: Poll) -> None:
    report = poll(ScriptedApi(ROWS, poison=refused(*range(4, 12))))

    assert report.recorded.completed == 4
    assert [jobs(ledger)[one].misses for one in IDS[4:]] == [1] * 8


def test_a_last_id_on_its_own_can_be_the_second_refusal(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    with pytest.raises(AkoolAccountError):
        poll(ScriptedApi({}, poison=refused(*range(12))), ids_per_request=11)
    assert due(ledger, clock) == IDS


def test_an_id_that_is_polled_alone_says_nothing_of_the_account(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    poll(ScriptedApi({one: row(one, status=2) for one in IDS}, poison=refused(5)))
    clock.advance(600)
    api = ScriptedApi(ROWS, poison=refused(*range(6)))  # one call refused whole, then the known id, then a good call
    assert poll(api, ids_per_request=6).recorded.completed == 6
    assert [jobs(ledger)[one].misses for one in IDS[:6]] == [1] * 5 + [2]


def test_an_id_that_is_polled_alone_does_not_clear_the_account_either(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    poll(ScriptedApi({one: row(one, status=2) for one in IDS}, poison=refused(5)))
    clock.advance(600)
    with pytest.raises(AkoolAccountError):
        poll(ScriptedApi({}, poison=refused(*range(12))), ids_per_request=6)
    assert {job.misses for job in jobs(ledger).values() if not job.poll_alone} == {0}


def test_with_one_id_a_call_two_gone_ids_are_not_the_account(ledger: JobLedger, poll: Poll) -> None:
    report = poll(ScriptedApi(ROWS, poison=refused(0, 1, 2)), ids_per_request=1)
    assert report.recorded.completed == 9


# Throttling


@pytest.mark.parametrize("retry_after", [7.5, None])
def test_a_throttle_ends_the_pass_and_the_next_one_waits(
    ledger: JobLedger, poll: Poll, clock: FakeClock, retry_after: float | None
) -> None:
    pause = PAUSE_AFTER_THROTTLE_MS if retry_after is None else 7_500
    api = ScriptedApi(ROWS, before=failing(AkoolThrottledError("Too often.", retry_after=retry_after), 2))

    report = poll(api)

    assert api.calls == 2
    assert settled(ledger) == IDS[:4]
    assert due(ledger, clock) == IDS[4:]
    assert "Too often." in (report.stopped or "")
    clock.advance(pause / 1000 - 0.001)
    assert poll(api).calls == 0
    clock.advance(0.001)
    assert poll(api).recorded.completed == 8


def test_an_absurd_wait_that_akool_asks_for_is_cut_to_an_hour(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    poll(ScriptedApi(ROWS, before=failing(AkoolThrottledError("Later.", retry_after=999_999_999.0))))
    assert poll(ScriptedApi(ROWS)).calls == 0
    clock.advance(LONGEST_PAUSE_MS / 1000)
    assert poll(ScriptedApi(ROWS)).recorded.completed == 12


def test_a_pause_that_was_noted_under_a_wrong_clock_does_not_count(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    ledger.hold_polling(ACCOUNT, clock.now_ms() + 86_400_000)
    assert poll(ScriptedApi(ROWS)).recorded.completed == 12


def test_a_throttle_amid_the_halving_keeps_what_was_answered(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    # Number nine is bad and was just found, as the first of the last three, when the throttle comes.
    api = ScriptedApi(ROWS, poison=refused(9), before=failing(AkoolThrottledError("Slow."), 7))
    poll(api, ids_per_request=12)
    assert [api.asked[5], api.asked[6]] == [(IDS[9],), tuple(IDS[10:])]
    assert settled(ledger) == IDS[:9]
    assert due(ledger, clock) == IDS[9:]
    assert {job.misses for job in jobs(ledger).values()} == {0}


# What only the user can mend


@pytest.mark.parametrize("leaf", [AkoolCredentialsError, AkoolAccountError, AkoolConfigurationError])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_only_the_user_can_mend_leaves_every_unasked_job_pending_and_due(
    ledger: JobLedger, poll: Poll, clock: FakeClock, leaf: type[AkoolError], call: int
) -> None:
    with pytest.raises(leaf, match="Fix the key"):
        poll(ScriptedApi(ROWS, before=failing(leaf("Fix the key."), call)))

    assert settled(ledger) == IDS[: 4 * (call - 1)]
    assert due(ledger, clock) == IDS[4 * (call - 1) :]
    assert {job.misses for job in jobs(ledger).values()} == {0}
    assert poll(ScriptedApi(ROWS)).recorded.completed == 12 - 4 * (call - 1)


def test_a_call_refused_before_the_key_was_is_due_again_too(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    api = ScriptedApi({}, poison=refused(0, 1, 2, 3), before=failing(AkoolCredentialsError("The key."), 8))
    with pytest.raises(AkoolCredentialsError):
        poll(api)
    assert due(ledger, clock) == IDS
    assert {job.misses for job in jobs(ledger).values()} == {0}


# What passes by itself


def test_one_call_in_trouble_costs_nobody_an_answer(ledger: JobLedger, poll: Poll) -> None:
    api = ScriptedApi(ROWS, before=failing(AkoolResponseError("HTTP 418."), 2))
    assert poll(api).stopped is None
    assert settled(ledger) == IDS
    assert api.calls == 3 + 2


def test_the_trouble_of_a_pass_of_one_call_is_told(ledger: JobLedger, poll: Poll) -> None:
    report = poll(ScriptedApi(ROWS, before=failing(AkoolResponseError("HTTP 404."))), ids_per_request=12)
    assert report.stopped == "HTTP 404."
    assert settled(ledger) == []


def test_an_outage_stops_the_pass_after_a_few_calls(ledger: JobLedger, poll: Poll) -> None:
    for ids_per_request, to_one_id in ((4, 3), (12, 4)):
        api = ScriptedApi(ROWS, before=failing(AkoolTransientError("HTTP 502.")))
        report = poll(api, ids_per_request=ids_per_request)
        assert api.calls == to_one_id + FAILURES_OF_AN_OUTAGE
        assert report.stopped == "HTTP 502."
    assert settled(ledger) == []


def test_trouble_that_passes_at_once_costs_a_few_calls_and_no_answer(ledger: JobLedger, poll: Poll) -> None:
    report = poll(ScriptedApi(ROWS, before=failing(AkoolTransientError("HTTP 502."), 1, 4)))
    assert report.stopped is None
    assert settled(ledger) == IDS


def test_ids_in_an_outage_come_back_in_two_halves(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    poll(ScriptedApi(ROWS, before=failing(AkoolTransientError("HTTP 500."))), ids_per_request=12)
    waits = [(job.next_poll_at - clock.now_ms()) / 1000 for job in jobs(ledger).values()]
    assert waits == [5.0] * 2 + [30.0] * 5 + [60.0] * 5  # two were asked for alone
    assert [job.poll_alone for job in jobs(ledger).values()] == [True] * 2 + [False] * 10
    clock.advance(60)
    assert poll(ScriptedApi(ROWS), ids_per_request=12).recorded.completed == 12


@pytest.mark.parametrize("error", [AkoolTransientError("HTTP 500."), AkoolResponseError("HTTP 400.")])
@pytest.mark.parametrize("bad", [1, 7, 11])
def test_ids_that_make_akool_fail_hold_up_the_others_for_a_few_passes_at_most(
    ledger: JobLedger, poll: Poll, clock: FakeClock, error: AkoolError, bad: int
) -> None:
    api = ScriptedApi(ROWS, poison=dict.fromkeys(IDS[:bad], error))
    for _ in range(6):
        poll(api, ids_per_request=12)
        clock.advance(60)
    assert settled(ledger) == IDS[bad:]
    for job in list(jobs(ledger).values())[:bad]:
        assert (job.state, job.poll_alone, job.last_error) == (JobState.PENDING, True, str(error))


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_gateway_that_refuses_long_calls_without_a_code_holds_up_nobody(
    ledger: JobLedger, poll: Poll, most: int
) -> None:
    def too_long(number: int, ids: Sequence[str]) -> AkoolError | None:
        return AkoolResponseError("HTTP 413.") if len(ids) > most else None

    assert poll(ScriptedApi(ROWS, before=too_long), ids_per_request=12).stopped is None
    assert settled(ledger) == IDS


def test_an_id_that_failed_alone_while_nothing_else_was_answered_is_never_abandoned_for_it(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    clock.advance(8 * 86_400)
    poll(ScriptedApi(ROWS, before=failing(AkoolTransientError("HTTP 500."))), ids_per_request=12)
    assert {job.state for job in jobs(ledger).values()} == {JobState.PENDING}
    clock.advance(600)
    others = {identifier: ROWS[identifier] for identifier in IDS[1:]}
    poll(ScriptedApi(others, poison={IDS[0]: AkoolTransientError("HTTP 500.")}), ids_per_request=12)
    assert jobs(ledger)[IDS[0]].state == JobState.ABANDONED  # the others were answered: it is the id


def test_an_id_that_akool_returns_again_is_asked_for_with_the_others_again(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    processing = {identifier: row(identifier, 2) for identifier in IDS}
    poll(ScriptedApi(processing, poison={IDS[3]: AkoolTransientError("HTTP 500.")}), ids_per_request=12)
    assert [job.job_id for job in jobs(ledger).values() if job.poll_alone] == [IDS[3]]
    clock.advance(600)
    poll(ScriptedApi(processing), ids_per_request=12)
    clock.advance(600)
    api = ScriptedApi(ROWS)
    poll(api, ids_per_request=12)
    assert [len(ids) for ids in api.asked] == [12]


def test_a_pass_in_which_akool_returns_nothing_asks_whose_key_it_is(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    whose = "Akool returned none of them: does AKOOL_API_KEY belong to the account that made them?"
    report = poll(ScriptedApi({}))
    assert (report.polled, report.not_returned) == (12, 12)
    assert whose in poll_sentence(report)
    clock.advance(600)
    assert whose not in poll_sentence(poll(ScriptedApi({IDS[0]: ROWS[IDS[0]]})))


@pytest.mark.parametrize("poisons", [[5], [0, 11], [3, 4, 9]])
def test_ids_that_make_akool_fail_are_parted_from_the_others_within_the_pass(
    ledger: JobLedger, poll: Poll, clock: FakeClock, poisons: list[int]
) -> None:
    poison = {IDS[number]: AkoolTransientError("HTTP 500.") for number in poisons}
    good = [identifier for identifier in IDS if identifier not in poison]
    poll(ScriptedApi(ROWS, poison=poison), ids_per_request=12)
    assert settled(ledger) == good
    for identifier in poison:
        job = jobs(ledger)[identifier]
        assert (job.state, job.poll_alone, job.last_error) == (JobState.PENDING, True, "HTTP 500.")
    clock.advance(600)
    later = job_id(99)
    ledger.track(ACCOUNT, [TrackRequest(job_id=later)])
    api = ScriptedApi({later: row(later)}, poison=poison)
    poll(api, ids_per_request=12)
    assert api.asked[0] == (later,)
    assert later in settled(ledger)


# Time


def test_a_pass_ends_when_its_time_is_over_and_keeps_what_it_has(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    def slow(number: int, ids: Sequence[str]) -> None:
        clock.advance(30)

    api = ScriptedApi(ROWS, before=slow)
    poll(api, seconds=45)

    assert api.calls == 2
    assert settled(ledger) == IDS[:8]
    assert poll(ScriptedApi(ROWS)).recorded.completed == 4


def test_a_call_that_the_time_ran_out_on_is_due_again_at_once(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    def slow(number: int, ids: Sequence[str]) -> AkoolError | None:
        clock.advance(40 if number == 1 else 5)
        return AkoolDeadlineError("Over.") if number == 2 else None

    report = poll(ScriptedApi(ROWS, before=slow))
    assert report.stopped == "the tick's time was over"
    assert settled(ledger) == IDS[:4]
    assert due(ledger, clock) == IDS[4:]
    assert not any(job.poll_alone for job in jobs(ledger).values())


@pytest.mark.parametrize("bad", [[0], [5], [11], [0, 11]])
def test_an_id_that_akool_never_answers_holds_up_the_others_for_a_few_passes_at_most(
    ledger: JobLedger, poll: Poll, clock: FakeClock, bad: list[int]
) -> None:
    hangs = [IDS[number] for number in bad]
    api = HangingApi(ROWS, clock, hangs)
    for _ in range(4):
        poll(api, ids_per_request=12)
        clock.advance(30)
    assert settled(ledger) == [identifier for identifier in IDS if identifier not in hangs]
    for identifier in hangs:
        assert (jobs(ledger)[identifier].state, jobs(ledger)[identifier].poll_alone) == (JobState.PENDING, True)


def test_a_call_that_never_ends_leaves_time_to_ask_for_its_halves(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    api = HangingApi(ROWS, clock, IDS[11:])
    poll(api, seconds=20, ids_per_request=12)
    assert [len(ids) for ids in api.asked] == [12, 6, 6, 3, 3]  # 10 s, none, 5 s, none, the last 5 s
    assert settled(ledger) == IDS[:9]


def test_an_akool_that_answers_nobody_makes_few_ids_suspect_and_none_abandoned(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    clock.advance(8 * 86_400)
    for _ in range(2):
        report = poll(HangingApi(ROWS, clock, IDS), ids_per_request=12)
        assert report.stopped == "the tick's time was over"
        clock.advance(30)
    assert {job.state for job in jobs(ledger).values()} == {JobState.PENDING}
    assert sum(job.poll_alone for job in jobs(ledger).values()) <= 6
    for _ in range(2):
        poll(ScriptedApi(ROWS), ids_per_request=12)
        clock.advance(600)
    assert settled(ledger) == IDS


def test_what_little_time_is_left_at_the_end_of_a_pass_makes_nobody_suspect(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    poll(HangingApi(ROWS, clock, IDS), seconds=SHORTEST_CALL_SECONDS)
    assert not any(job.poll_alone for job in jobs(ledger).values())
    assert due(ledger, clock) == IDS


def test_no_time_at_all_means_no_call(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    assert poll(ScriptedApi(ROWS), seconds=0).calls == 0
    assert due(ledger, clock) == IDS


def test_ids_claimed_together_but_polled_alone_are_released_when_the_time_is_over(
    ledger: JobLedger, poll: Poll, clock: FakeClock
) -> None:
    poll(ScriptedApi({one: row(one, status=2) for one in IDS}, poison=refused(0, 1, 2)), ids_per_request=12)
    clock.advance(600)

    def slow(number: int, ids: Sequence[str]) -> None:
        clock.advance(30)

    poll(ScriptedApi({}, before=slow), ids_per_request=12)
    assert due(ledger, clock) == IDS[1:3]


# Codes nobody knows


def unknown_code(code: int = 4711) -> AkoolResponseError:
    return AkoolResponseError(f"Akool answered {code} (unknown code).", code=code)


def test_an_id_refused_with_an_unknown_code_stays_pending_with_the_error(ledger: JobLedger, poll: Poll) -> None:
    report = poll(ScriptedApi(ROWS, poison={IDS[2]: unknown_code()}), ids_per_request=12)

    assert (report.recorded.completed, report.unreadable) == (11, 1)
    job = jobs(ledger)[IDS[2]]
    assert (job.state, job.misses, job.poll_alone) == (JobState.PENDING, 0, True)
    assert "4711" in (job.last_error or "")


def test_an_unknown_code_for_everything_stops_the_pass_after_two_calls(ledger: JobLedger, poll: Poll) -> None:
    api = ScriptedApi({}, poison={identifier: unknown_code() for identifier in IDS})
    report = poll(api)
    assert api.calls == 2 * 7  # each of two calls of four ids, taken apart
    assert "cannot be read" in (report.stopped or "")
    assert [job.polls for job in jobs(ledger).values()] == [1] * 8 + [0] * 4


# Crashes, and passes beside each other


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_crash_in_the_middle_loses_nothing(ledger: JobLedger, poll: Poll, clock: FakeClock, call: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        poll(ScriptedApi(ROWS, before=failing(KeyboardInterrupt(), call)))

    assert settled(ledger) == IDS[: 4 * (call - 1)]
    clock.advance(120)  # what was being asked stays claimed for two minutes
    assert poll(ScriptedApi(ROWS)).recorded.completed == 12 - 4 * (call - 1)


def test_passes_beside_each_other_never_ask_the_same_id(ledger: JobLedger, poll: Poll) -> None:
    inner = ScriptedApi(ROWS)
    reports: list[PollReport] = []

    def beside(number: int, ids: Sequence[str]) -> None:
        if number == 1:
            reports.append(poll(inner))

    outer = ScriptedApi(ROWS, before=beside)
    reports.append(poll(outer))

    asked = [identifier for call in (*outer.asked, *inner.asked) for identifier in call]
    assert sorted(asked) == IDS
    assert (len(outer.asked), len(inner.asked)) == (1, 2)
    assert sum(report.recorded.completed for report in reports) == 12


def test_a_late_answer_never_moves_a_job_back(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    def overtaken(number: int, ids: Sequence[str]) -> None:
        if number == 1:
            clock.advance(121)  # the claim has run out, and another pass asks
            poll(ScriptedApi(ROWS))

    poll(ScriptedApi({one: row(one, status=2) for one in IDS}, before=overtaken), seconds=600)
    assert settled(ledger) == IDS
