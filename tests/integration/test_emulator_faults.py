from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import requests
import urllib3

from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from tests.clock import FakeClock

KEY = {"x-api-key": "emulator-key"}
FIRST, SECOND = (f"{FakeClock().now_ms() // 1000 - 60:08x}{number:016x}" for number in (1, 2))


@pytest.fixture(scope="module")
def running() -> Iterator[AkoolEmulator]:
    jobs = [EmulatedJob(job_id=job_id, queue_polls=0, video_duration=0.5) for job_id in (FIRST, SECOND)]
    with AkoolEmulator(jobs=jobs, clock=FakeClock()) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: AkoolEmulator, caplog: pytest.LogCaptureFixture) -> Iterator[AkoolEmulator]:
    running.faults.clear()
    running.journal.clear()
    with caplog.at_level(logging.WARNING):
        yield running
    # A broken connection is played on purpose: nothing may be logged as if the server had failed.
    assert not [record for record in caplog.get_records("call") if record.name.startswith(("uvicorn", "asyncio"))]


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def poll(emulator: AkoolEmulator, session: requests.Session, *job_ids: str) -> requests.Response:
    url = f"{emulator.base_url}/api/open/v4/image2Video/resultsByIds"
    return session.post(url, json={"_ids": ",".join(job_ids)}, headers=KEY, timeout=10)


def video_url(emulator: AkoolEmulator, session: requests.Session) -> str:
    (row,) = poll(emulator, session, FIRST).json()["data"]["result"]
    emulator.journal.clear()
    return str(row["video_url"])


def test_throttling_by_akool_is_a_200_with_1005(emulator: AkoolEmulator, session: requests.Session) -> None:
    emulator.faults.add("1005", times=1)
    response = poll(emulator, session, FIRST)
    assert (response.status_code, response.json()["code"]) == (200, 1005)
    assert poll(emulator, session, FIRST).json()["code"] == 1000
    assert [(request.code, request.faults) for request in emulator.journal.requests] == [
        (1005, ("1005",)),
        (1000, ()),
    ]


def test_throttling_by_the_gateway_says_when_to_come_back(emulator: AkoolEmulator, session: requests.Session) -> None:
    emulator.faults.add("429", times=1, retry_after=7)
    response = poll(emulator, session, FIRST)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")


def test_a_bad_gateway_answers_html(emulator: AkoolEmulator, session: requests.Session) -> None:
    emulator.faults.add("502", times=1)
    response = poll(emulator, session, FIRST)
    assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (502, "text/html")
    with pytest.raises(requests.JSONDecodeError):
        response.json()


def test_a_reset_is_a_reset_at_the_other_end_and_the_next_call_works(
    emulator: AkoolEmulator, session: requests.Session
) -> None:
    emulator.faults.add("reset", times=1)
    with pytest.raises(requests.ConnectionError) as caught:
        poll(emulator, session, FIRST)
    cause = caught.value.args[0]
    assert isinstance(cause, urllib3.exceptions.ProtocolError)
    # An orderly end is a RemoteDisconnected, which is a ConnectionResetError as well.
    assert type(cause.args[1]) is ConnectionResetError
    assert poll(emulator, session, FIRST).json()["code"] == 1000
    assert [(request.http_status, request.faults) for request in emulator.journal.requests] == [
        (None, ("reset",)),
        (200, ()),
    ]


def test_a_reset_of_a_kept_connection_leaves_other_connections_alone(
    emulator: AkoolEmulator, session: requests.Session
) -> None:
    with requests.Session() as other:
        for client in (session, other):
            assert poll(emulator, client, FIRST).json()["code"] == 1000
        emulator.faults.add("reset", times=1, job_id=SECOND)
        assert poll(emulator, other, FIRST).json()["code"] == 1000
        with pytest.raises(requests.ConnectionError):
            poll(emulator, session, SECOND)
        assert poll(emulator, other, SECOND).json()["code"] == 1000


def test_a_reset_can_hit_the_cdn(emulator: AkoolEmulator, session: requests.Session) -> None:
    url = video_url(emulator, session)
    emulator.faults.add("reset", endpoint="cdn", times=1)
    with pytest.raises(requests.ConnectionError):
        session.get(url, timeout=10)
    assert session.get(url, timeout=10).status_code == 200


def test_a_short_body_ends_before_its_content_length(emulator: AkoolEmulator, session: requests.Session) -> None:
    url = video_url(emulator, session)
    content = emulator.video_bytes(FIRST)
    emulator.faults.add("short_body", times=1)
    with session.get(url, stream=True, timeout=10) as response:
        assert (response.status_code, int(response.headers["Content-Length"])) == (200, len(content))
        received = bytearray()
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            for chunk in response.iter_content(512):
                received += chunk
    assert content.startswith(bytes(received))
    assert len(received) <= len(content) // 2
    assert session.get(url, timeout=10).content == content
    assert [request.faults for request in emulator.journal.requests] == [("short_body",), ()]


def test_a_short_body_can_hit_the_api(emulator: AkoolEmulator, session: requests.Session) -> None:
    emulator.faults.add("short_body", endpoint="resultsByIds", times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        poll(emulator, session, FIRST)


def test_an_expired_address_of_one_job_leaves_the_others_alive(
    emulator: AkoolEmulator, session: requests.Session
) -> None:
    rows = poll(emulator, session, FIRST, SECOND).json()["data"]["result"]
    urls = {row["_id"]: row["video_url"] for row in rows}
    emulator.faults.add("expired_url", job_id=FIRST)
    denied = session.get(urls[FIRST], timeout=10)
    assert (denied.status_code, denied.headers["Content-Type"]) == (403, "application/xml")
    assert session.get(urls[SECOND], timeout=10).status_code == 200


def test_a_missing_row_is_left_out_of_an_answer_that_is_otherwise_right(
    emulator: AkoolEmulator, session: requests.Session
) -> None:
    emulator.faults.add("missing_row", job_id=FIRST, times=1)
    answer = poll(emulator, session, FIRST, SECOND).json()
    assert answer["code"] == 1000
    assert [row["_id"] for row in answer["data"]["result"]] == [SECOND]
    assert len(poll(emulator, session, FIRST, SECOND).json()["data"]["result"]) == 2
    assert [request.faults for request in emulator.journal.requests] == [("missing_row",), ()]


def test_a_failed_job_stays_failed_and_the_others_go_on(emulator: AkoolEmulator, session: requests.Session) -> None:
    third = f"{FakeClock().now_ms() // 1000 - 60:08x}{3:016x}"
    emulator.add_job(EmulatedJob(job_id=third, queue_seconds=1000))
    emulator.faults.add("failed_job", job_id=third, times=1)
    for _ in range(2):
        rows = poll(emulator, session, FIRST, third).json()["data"]["result"]
        assert [row["status"] for row in rows] == [3, 4]
