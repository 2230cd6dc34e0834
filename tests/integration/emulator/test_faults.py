"""What faults leave alone; what each of them does is in test_faults_on_the_wire."""

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


def test_an_expired_address_of_one_job_leaves_the_others_alive(
    emulator: AkoolEmulator, session: requests.Session
) -> None:
    rows = poll(emulator, session, FIRST, SECOND).json()["data"]["result"]
    urls = {row["_id"]: row["video_url"] for row in rows}
    emulator.faults.add("expired_url", job_id=FIRST)
    denied = session.get(urls[FIRST], timeout=10)
    assert (denied.status_code, denied.headers["Content-Type"]) == (403, "application/xml")
    assert session.get(urls[SECOND], timeout=10).status_code == 200


def test_a_failed_job_stays_failed_and_the_others_go_on(emulator: AkoolEmulator, session: requests.Session) -> None:
    third = f"{FakeClock().now_ms() // 1000 - 60:08x}{3:016x}"
    emulator.add_job(EmulatedJob(job_id=third, queue_seconds=1000))
    emulator.faults.add("failed_job", job_id=third, times=1)
    for _ in range(2):
        rows = poll(emulator, session, FIRST, third).json()["data"]["result"]
        assert [row["status"] for row in rows] == [3, 4]
