from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.emulator.answers import Answer
from akool_dagster.emulator.faults import FaultSwitch
from akool_dagster.emulator.jobs import EmulatedJob, Row
from akool_dagster.emulator.journal import Journal, RecordedRequest
from akool_dagster.emulator.service import Account, AkoolService
from tests.clock import FakeClock

ACCOUNT = Account(api_key="the-key", client_id="the-client", client_secret="the-secret")
FIRST, SECOND, THIRD = (f"{1_759_999_000 + number:08x}{number:016x}" for number in range(3))


def service_of(
    *jobs: EmulatedJob,
    clock: FakeClock | None = None,
    speed: float = 1.0,
    max_ids_per_call: int | None = None,
    faults: FaultSwitch | None = None,
) -> AkoolService:
    service = AkoolService(
        ACCOUNT,
        clock=FakeClock() if clock is None else clock,
        speed=speed,
        max_ids_per_call=max_ids_per_call,
        faults=FaultSwitch() if faults is None else faults,
    )
    service.address = "http://emulator.example.com"
    for job in jobs:
        service.add_job(job)
    service.begin()
    return service


def rows(service: AkoolService, *job_ids: str) -> list[Row]:
    answer, _ = service.results({"_ids": ",".join(job_ids)})
    assert answer.code == 1000
    found: list[Row] = json.loads(answer.body)["data"]["result"]
    return found


def statuses(found: Iterable[Row]) -> list[object]:
    return [row["status"] for row in found]


def file_name(row: Row) -> str:
    return str(row["video_url"]).rpartition("/")[2]


def video_status(service: AkoolService, name: str) -> int:
    found = service.video(name)
    return (found.http_status or 0) if isinstance(found, Answer) else 200


def test_jobs_move_by_the_clock() -> None:
    clock = FakeClock()
    service = service_of(EmulatedJob(job_id=FIRST), clock=clock)
    seen = []
    for _ in range(4):
        seen += statuses(rows(service, FIRST))
        clock.advance(1)
    assert seen == [1, 2, 2, 3]


def test_speed_makes_jobs_faster_and_not_their_history() -> None:
    clock = FakeClock()
    slow, fast = (service_of(EmulatedJob(job_id=FIRST), clock=clock, speed=speed) for speed in (1.0, 10.0))
    clock.advance(0.3)
    assert (statuses(rows(slow, FIRST)), statuses(rows(fast, FIRST))) == ([1], [3])
    clock.advance(10)
    assert rows(slow, FIRST) == rows(fast, FIRST)


def test_a_step_of_the_wall_clock_moves_no_job() -> None:
    clock = FakeClock()
    service = service_of(EmulatedJob(job_id=FIRST), clock=clock)
    clock.jump(3600)
    assert statuses(rows(service, FIRST)) == [1]
    clock.advance(3)
    clock.jump(-7200)
    assert statuses(rows(service, FIRST)) == [3]


def test_time_starts_when_the_service_begins_when_a_job_is_added_or_when_the_job_says() -> None:
    clock = FakeClock()
    start_ms = clock.now_ms()
    service = AkoolService(ACCOUNT, clock=clock, faults=FaultSwitch())
    service.add_job(EmulatedJob(job_id=FIRST))
    clock.advance(100)
    assert statuses(rows(service, FIRST)) == [1]
    service.begin()
    service.add_job(EmulatedJob(job_id=SECOND, available_from_ms=start_ms))
    clock.advance(2)
    service.add_job(EmulatedJob(job_id=THIRD))
    assert statuses(rows(service, FIRST, SECOND, THIRD)) == [2, 3, 1]
    service.begin()
    clock.advance(1)
    assert statuses(rows(service, FIRST, SECOND, THIRD)) == [3, 3, 2]


def test_a_job_that_becomes_available_later_queues_until_then() -> None:
    clock = FakeClock()
    job = EmulatedJob(job_id=FIRST, queue_seconds=0, available_from_ms=clock.now_ms() + 5000)
    service = service_of(job, clock=clock)
    assert statuses(rows(service, FIRST)) == [1]
    clock.advance(5)
    assert statuses(rows(service, FIRST)) == [2]


def test_polls_of_one_job_do_not_move_another() -> None:
    service = service_of(
        EmulatedJob(job_id=FIRST, queue_polls=1, processing_polls=1),
        EmulatedJob(job_id=SECOND, queue_polls=1, processing_polls=1),
    )
    assert statuses(rows(service, FIRST)) == [1]
    assert statuses(rows(service, FIRST, SECOND)) == [2, 1]
    assert statuses(rows(service, FIRST, SECOND)) == [3, 2]


def test_rows_come_once_in_the_order_of_creation_and_not_of_the_request() -> None:
    job_ids = [f"68000000{number:016x}" for number in (5, 3, 9, 1, 8, 2, 7, 4, 6, 0)]
    service = service_of(*(EmulatedJob(job_id=job_id) for job_id in job_ids))
    found = rows(service, *sorted(job_ids), "f" * 24, *job_ids[:3])
    assert [row["_id"] for row in found] == job_ids


def test_an_id_in_capitals_is_the_same_id_and_an_unknown_one_or_one_with_blanks_has_no_row() -> None:
    service = service_of(EmulatedJob(job_id=FIRST))
    assert [row["_id"] for row in rows(service, FIRST.upper())] == [FIRST]
    assert rows(service, f" {FIRST}", SECOND, "not-an-id") == []


@pytest.mark.parametrize(
    "payload",
    [None, [], "x", {}, {"ids": FIRST}, {"_ids": [FIRST]}, {"_ids": ""}, {"_ids": " "}, {"_ids": None}, 7],
)
def test_ids_in_any_other_shape_are_refused(payload: object) -> None:
    answer, _ = service_of(EmulatedJob(job_id=FIRST)).results(payload)
    assert (answer.http_status, answer.code) == (200, 1003)
    assert json.loads(answer.body)["msg"] == "Failed to get results"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_no_payload_breaks_the_service(value: object) -> None:
    service = service_of(EmulatedJob(job_id=FIRST))
    for payload in (value, {"_ids": value}, {"ids": value}):
        assert service.results(payload)[0].code in (1000, 1003)
        assert service.issue_token(payload).code in (1003, 1101)
    assert service.issue_token({"clientId": value, "clientSecret": value}).code == 1101


def test_a_call_with_too_many_ids_is_refused_and_moves_no_job() -> None:
    service = service_of(EmulatedJob(job_id=FIRST, queue_polls=1), max_ids_per_call=2)
    answer, _ = service.results({"_ids": ",".join((FIRST, SECOND, THIRD))})
    assert answer.code == 1003
    assert statuses(rows(service, FIRST, SECOND)) == [1]


def test_an_old_job_ends_in_the_past_and_stays_as_it_ended() -> None:
    clock = FakeClock()
    service = service_of(EmulatedJob(job_id=FIRST), clock=clock)
    clock.advance(5)
    first = rows(service, FIRST)
    assert first[0]["update_time"] == int(FIRST[:8], 16) * 1000 + 3000
    clock.advance(1000)
    assert rows(service, FIRST) == first


def test_a_new_job_never_ends_in_the_future() -> None:
    clock = FakeClock()
    created = clock.now_ms()
    jobs = (
        EmulatedJob(job_id=FIRST, created_ms=created, queue_seconds=60),
        EmulatedJob(job_id=SECOND, created_ms=created, queue_polls=0),
    )
    service = service_of(*jobs, clock=clock, speed=100)
    clock.advance(1)
    by_time, by_polls = rows(service, FIRST, SECOND)
    assert by_time["update_time"] == created + 620
    assert by_polls["update_time"] == created + 1000
    clock.advance(1)
    assert rows(service, FIRST, SECOND) == [by_time, by_polls]


def test_the_same_id_cannot_be_added_twice() -> None:
    service = service_of(EmulatedJob(job_id=FIRST))
    with pytest.raises(ValueError, match=FIRST):
        service.add_job(EmulatedJob(job_id=FIRST))


def test_videos_of_one_moment_have_different_names_in_akools_form() -> None:
    jobs = [EmulatedJob(job_id=f"68000000{number:010x}000000", queue_polls=0) for number in range(50)]
    found = rows(service_of(*jobs), *(job.job_id for job in jobs))
    names = {file_name(row) for row in found}
    assert len(names) == 50
    assert all(name.removesuffix(".mp4").replace("-", "", 1).isdigit() for name in names)


def test_a_video_is_there_only_once_its_job_has_completed() -> None:
    clock = FakeClock()
    job = EmulatedJob(job_id=FIRST)
    service = service_of(job, clock=clock)
    clock.advance(3)
    name = file_name(rows(service, FIRST)[0])
    assert video_status(service, name) == 200
    assert video_status(service_of(job), name) == 404
    assert video_status(service_of(), name) == 404


def test_a_video_of_a_job_that_moves_by_polls_is_there_with_the_poll_that_shows_it() -> None:
    job = EmulatedJob(job_id=FIRST, processing_polls=1)
    name = file_name(rows(service_of(EmulatedJob(job_id=FIRST, processing_polls=0)), FIRST)[0])
    service = service_of(job)
    seen = []
    for _ in range(3):
        seen.append(video_status(service, name))
        rows(service, FIRST)
    assert seen == [404, 404, 200]


def test_an_address_dies_after_its_lifetime_and_the_row_still_shows_it() -> None:
    clock = FakeClock()
    job = EmulatedJob(job_id=FIRST, created_ms=clock.now_ms(), queue_seconds=0, processing_seconds=0)
    service = service_of(job, clock=clock)
    name = file_name(rows(service, FIRST)[0])
    clock.advance(7 * 86_400 - 1)
    assert video_status(service, name) == 200
    clock.advance(1)
    assert video_status(service, name) == 403
    assert file_name(rows(service, FIRST)[0]) == name


def test_a_fault_fails_its_job_for_good_and_takes_its_video() -> None:
    faults = FaultSwitch()
    service = service_of(EmulatedJob(job_id=FIRST), EmulatedJob(job_id=SECOND, queue_polls=0), faults=faults)
    name = file_name(rows(service, SECOND)[0])
    faults.add("failed_job", job_id=FIRST, times=1)
    faults.add("failed_job", job_id=SECOND, times=1)
    answer, happened = service.results({"_ids": f"{FIRST},{SECOND}"})
    assert happened == ("failed_job", "failed_job")
    assert statuses(json.loads(answer.body)["data"]["result"]) == [4, 4]
    again = rows(service, FIRST, SECOND)
    assert statuses(again) == [4, 4]
    assert all(row["error_reason"] and "video_url" not in row for row in again)
    assert service.jobs[FIRST].outcome == "failed"
    assert video_status(service, name) == 404


def test_a_missing_row_is_missing_as_often_as_told_and_counts_as_a_poll() -> None:
    faults = FaultSwitch()
    service = service_of(
        EmulatedJob(job_id=FIRST, queue_polls=1), EmulatedJob(job_id=SECOND, queue_polls=2), faults=faults
    )
    faults.add("missing_row", job_id=FIRST, times=1)
    assert [row["_id"] for row in rows(service, FIRST, SECOND)] == [SECOND]
    assert statuses(rows(service, FIRST, SECOND)) == [3, 1]


@pytest.mark.parametrize(
    ("authorization", "api_key", "code"),
    [
        (None, "the-key", None),
        (None, None, 1102),
        ("", "", 1102),
        ("", "the-key", None),
        (None, "wrong", 1109),
        (None, "the-client", 1109),
        ("Bearer stale", "the-key", 1101),
        ("Bearer", None, 1101),
        ("Basic the-key", None, 1101),
    ],
)
def test_credentials_are_judged_like_akool_does(
    authorization: str | None, api_key: str | None, code: int | None
) -> None:
    refusal = service_of().refuse(authorization, api_key)
    assert (None if refusal is None else refusal.code) == code


@pytest.mark.parametrize("speed", [0, -1])
def test_a_speed_that_stops_time_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        service_of(speed=speed)


def test_the_journal_keeps_the_latest_requests() -> None:
    journal = Journal(length=2)
    for endpoint in ("getToken", "resultsByIds", "resultsByIds"):
        journal.record(
            RecordedRequest(
                method="POST",
                path="/",
                endpoint=endpoint,
                time_ms=0,
                job_ids=(),
                auth_headers=(),
                http_status=200,
                code=1000,
                faults=(),
            )
        )
    assert len(journal.requests) == 2
    assert (len(journal.calls("resultsByIds")), len(journal.calls("getToken"))) == (2, 0)
    journal.clear()
    assert not journal.requests
