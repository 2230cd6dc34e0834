from __future__ import annotations

import gc
import importlib
import itertools
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from akool_dagster.emulator import AkoolEmulator, EmulatedJob, EmulatorError, RecordedRequest, population
from tests.clock import FakeClock

KEY = {"x-api-key": "emulator-key"}
_numbers = itertools.count(1)


def finished_job(**options: object) -> EmulatedJob:
    """A job of its own for each call, completed at its first poll, whose address is alive on the fake clock."""
    job_id = f"{FakeClock().now_ms() // 1000 - 3600:08x}{next(_numbers):016x}"
    return EmulatedJob(job_id=job_id, queue_polls=0, video_duration=0.5, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="module")
def running(clock: FakeClock) -> Iterator[AkoolEmulator]:
    with AkoolEmulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: AkoolEmulator) -> AkoolEmulator:
    running.faults.clear()
    running.journal.clear()
    return running


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def post_results(
    emulator: AkoolEmulator, session: requests.Session, *job_ids: str, headers: Mapping[str, str] = KEY
) -> requests.Response:
    url = f"{emulator.base_url}/api/open/v4/image2Video/resultsByIds"
    return session.post(url, json={"_ids": ",".join(job_ids)}, headers=dict(headers), timeout=10)


def video_url(emulator: AkoolEmulator, session: requests.Session, job: EmulatedJob) -> str:
    (row,) = post_results(emulator, session, job.job_id).json()["data"]["result"]
    emulator.journal.clear()
    return str(row["video_url"])


def only(requests_made: tuple[RecordedRequest, ...]) -> RecordedRequest:
    (request,) = requests_made
    return request


def test_results_come_over_http_with_an_address_on_the_cdn(emulator: AkoolEmulator, session: requests.Session) -> None:
    job = finished_job()
    emulator.add_job(job)
    response = post_results(emulator, session, job.job_id, "f" * 24)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    answer = response.json()
    assert answer["code"] == 1000
    (row,) = answer["data"]["result"]
    assert row["_id"] == job.job_id
    assert row["video_url"].startswith(f"{emulator.base_url}/cdn/")
    served = session.get(row["video_url"], timeout=10)
    assert served.content == emulator.video_bytes(job.job_id)
    assert served.headers["Content-Type"] == "video/mp4"
    assert int(served.headers["Content-Length"]) == len(served.content)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b'{"_ids":["a"]}'])
def test_a_body_akool_would_refuse_is_a_200_with_1003(
    emulator: AkoolEmulator, session: requests.Session, body: bytes
) -> None:
    url = f"{emulator.base_url}/api/open/v4/image2Video/resultsByIds"
    response = session.post(url, data=body, headers=KEY, timeout=10)
    assert response.status_code == 200
    assert response.json() == {"code": 1003, "msg": "Failed to get results"}
    assert only(emulator.journal.requests).code == 1003


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 1102),
        ({"Authorization": "Bearer stale", **KEY}, 1101),
        (KEY, 1000),
    ],
)
def test_credentials_are_judged_on_every_api_endpoint(
    emulator: AkoolEmulator, session: requests.Session, headers: dict[str, str], code: int
) -> None:
    assert post_results(emulator, session, "a" * 24, headers=headers).json()["code"] == code
    balance = session.get(f"{emulator.base_url}/api/open/v3/faceswap/quota/info", headers=headers, timeout=10)
    assert (balance.status_code, balance.json()["code"]) == (200, code)


def test_a_token_opens_the_api_until_it_expires(emulator: AkoolEmulator, session: requests.Session) -> None:
    emulator.credit = 17.5
    url = f"{emulator.base_url}/api/open/v3/getToken"
    credentials = {"clientId": "emulator-client", "clientSecret": "emulator-secret"}
    answer = session.post(url, json=credentials, timeout=10).json()
    assert answer["code"] == 1000
    bearer = {"Authorization": f"Bearer {answer['token']}", "x-api-key": "wrong"}  # the token wins
    balance = f"{emulator.base_url}/api/open/v3/faceswap/quota/info"
    assert session.get(balance, headers=bearer, timeout=10).json()["data"] == {"credit": 17.5}
    emulator.expire_token()
    assert session.get(balance, headers=bearer, timeout=10).json()["code"] == 1101
    assert session.post(url, json={**credentials, "clientSecret": "x"}, timeout=10).json()["code"] == 1101
    assert session.post(url, data=b"{", timeout=10).json()["code"] == 1003
    assert [request.code for request in emulator.journal.calls("getToken")] == [1000, 1101, 1003]


def test_the_journal_tells_what_was_asked_and_never_a_secret(
    emulator: AkoolEmulator, session: requests.Session, clock: FakeClock
) -> None:
    job = finished_job()
    emulator.add_job(job)
    post_results(emulator, session, job.job_id, "f" * 24)
    request = only(emulator.journal.requests)
    assert request == RecordedRequest(
        method="POST",
        path="/api/open/v4/image2Video/resultsByIds",
        endpoint="resultsByIds",
        time_ms=clock.now_ms(),
        job_ids=(job.job_id, "f" * 24),
        auth_headers=("x-api-key",),
        http_status=200,
        code=1000,
        faults=(),
    )
    assert "emulator-key" not in repr(emulator.journal.requests)


def test_the_journal_shows_a_key_that_reached_the_cdn(emulator: AkoolEmulator, session: requests.Session) -> None:
    job = finished_job()
    emulator.add_job(job)
    url = video_url(emulator, session, job)
    for headers in ({}, KEY, {"X-Custom": "key=emulator-key"}, {"Authorization": "Basic eDp5"}):
        assert session.get(url, headers=headers, timeout=10).status_code == 200
    seen = [(request.job_ids, request.auth_headers) for request in emulator.journal.calls("cdn")]
    mine = (job.job_id,)
    assert seen == [(mine, ()), (mine, ("x-api-key",)), (mine, ("x-custom",)), (mine, ("authorization",))]


@pytest.mark.parametrize(
    ("method", "path", "http_status"),
    [
        ("GET", "/", 404),
        ("POST", "/api/open/v4/image2video/resultsByIds", 404),
        ("GET", "/api/open/v4/image2Video/resultsByIds", 405),
        ("POST", "/cdn/1-1.mp4", 405),
        ("GET", "/cdn/1-1.mp4", 404),
        ("GET", "/cdn/..%2Fsecret", 404),
    ],
)
def test_what_the_emulator_does_not_have_is_an_http_error_in_the_journal(
    emulator: AkoolEmulator, session: requests.Session, method: str, path: str, http_status: int
) -> None:
    assert session.request(method, emulator.base_url + path, timeout=10).status_code == http_status
    request = only(emulator.journal.requests)
    assert (request.method, request.http_status, request.code) == (method, http_status, None)


def test_a_head_request_gets_the_headers_of_the_file(emulator: AkoolEmulator, session: requests.Session) -> None:
    job = finished_job()
    emulator.add_job(job)
    url = video_url(emulator, session, job)
    head = session.head(url, headers={"Range": "bytes=0-9"}, timeout=10)
    whole = session.get(url, timeout=10)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == whole.headers


def test_a_file_comes_in_parts_that_join_to_the_whole(emulator: AkoolEmulator, session: requests.Session) -> None:
    job = finished_job()
    emulator.add_job(job)
    url = video_url(emulator, session, job)
    size = len(emulator.video_bytes(job.job_id))
    first = session.get(url, headers={"Range": "bytes=0-999"}, timeout=10)
    rest = {"Range": "bytes=1000-", "If-Range": first.headers["ETag"]}
    second = session.get(url, headers=rest, timeout=10)
    assert (first.status_code, second.status_code) == (206, 206)
    assert second.headers["Content-Range"] == f"bytes 1000-{size - 1}/{size}"
    assert first.content + second.content == emulator.video_bytes(job.job_id)


def test_many_clients_get_many_videos_at_once() -> None:
    now_ms = FakeClock().now_ms()
    jobs = [job for job in population(5, seed=1, now_ms=now_ms) if job.outcome == "completed"]
    clock = FakeClock()
    with AkoolEmulator(jobs=jobs, clock=clock) as emulator, requests.Session() as session:
        clock.advance(60)
        found = post_results(emulator, session, *emulator.jobs).json()["data"]["result"]
        assert len(found) == len(jobs)

        def download(row: Mapping[str, str]) -> bytes:
            return requests.get(row["video_url"], timeout=30).content

        with ThreadPoolExecutor(4) as pool:
            served = list(pool.map(download, found * 2))
        assert served == [emulator.video_bytes(row["_id"]) for row in found * 2]
        assert len(set(served)) == len(jobs)


def test_starting_and_stopping_leaves_no_thread_and_no_socket(session: requests.Session) -> None:
    threads = set(threading.enumerate())
    emulator = AkoolEmulator(jobs=[finished_job()])
    with pytest.raises(EmulatorError, match="before it is started"):
        _ = emulator.base_url
    emulator.stop()
    with emulator:
        assert post_results(emulator, session, *emulator.jobs).json()["code"] == 1000
        with pytest.raises(EmulatorError, match="already"):
            emulator.start()
    emulator.stop()
    assert set(threading.enumerate()) == threads
    gc.collect()
    with pytest.raises(requests.ConnectionError):
        post_results(emulator, session, *emulator.jobs)


def test_a_restart_keeps_address_jobs_and_journal(session: requests.Session) -> None:
    job = finished_job()
    emulator = AkoolEmulator(jobs=[job])
    with emulator:
        before = emulator.base_url
        post_results(emulator, session, job.job_id)
    with emulator:
        assert emulator.base_url == before
        assert post_results(emulator, session, job.job_id).json()["code"] == 1000
    assert len(emulator.journal.calls("resultsByIds")) == 2


def test_an_impossible_port_is_said_so() -> None:
    with pytest.raises(EmulatorError, match="65536"):
        AkoolEmulator(port=65536).start()


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_the_import_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("akool_dagster.emulator")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'akool-dagster\[emulator\]'"):
        importlib.import_module("akool_dagster.emulator")
