"""Each fault of the table, as a client sees it: a kind without an expectation here fails."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator, EmulatedJob, Endpoint
from akool_dagster.emulator.jobs import Row
from tests.clock import FakeClock
from tests.mp4 import duration_of

KEY = {"x-api-key": "emulator-key", "Content-Type": "application/json"}
FIRST, SECOND, THIRD = (f"{FakeClock().now_ms() // 1000 - 60:08x}{number:016x}" for number in (1, 2, 3))
DATE = "Thu, 09 Oct 2025 08:53:20 GMT"


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="module")
def running(clock: FakeClock) -> Iterator[AkoolEmulator]:
    jobs = [EmulatedJob(job_id=job_id, queue_polls=0, video_duration=0.5) for job_id in (FIRST, SECOND, THIRD)]
    with AkoolEmulator(jobs=jobs, clock=clock) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: AkoolEmulator, caplog: pytest.LogCaptureFixture) -> Iterator[AkoolEmulator]:
    running.faults.clear()
    running.journal.clear()
    with caplog.at_level(logging.WARNING):
        yield running
    # What is broken is broken on purpose: nothing may be logged as if the server had failed.
    assert not [record for record in caplog.get_records("call") if record.name.startswith(("uvicorn", "asyncio"))]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one client got: ``ending`` is whole, cut, reset, silent (no answer in time) or endless."""

    ending: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def rows(self) -> list[Row]:
        found: list[Row] = json.loads(self.body)["data"]["result"]
        return found


def exchange(url: str, body: bytes | None = None, *, timeout: float = 10.0, most: int = 10_000_000) -> Heard:
    """Ask once over a connection of its own, and read until the end or ``most`` bytes."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    status: int | None = None
    headers: dict[str, str] = {}
    received = bytearray()
    ending = "whole"
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request("GET" if body is None else "POST", target, body, KEY if body is not None else {})
        response = connection.getresponse()
        status, headers = response.status, {name.lower(): value for name, value in response.headers.items()}
        while chunk := response.read1(1 << 16):
            received += chunk
            if len(received) >= most:
                ending = "endless"
                break
        if ending == "whole" and len(received) < int(headers.get("content-length", 0)):
            ending = "cut"
    except http.client.IncompleteRead:
        ending = "cut"
    except ConnectionResetError as error:
        assert not isinstance(error, http.client.RemoteDisconnected)  # which would be an orderly end
        ending = "reset"
    except TimeoutError:
        ending = "silent"
    finally:
        connection.close()
    return Heard(ending=ending, status=status, headers=headers, body=bytes(received))


class Calls:
    """A call to each of two endpoints, and what it gives when nothing is wrong."""

    def __init__(self, emulator: AkoolEmulator) -> None:
        self._emulator = emulator
        (row, _) = self(Endpoint.RESULTS).rows
        self.video_url = str(row["video_url"])
        self.normal = {endpoint: self(endpoint) for endpoint in (Endpoint.RESULTS, Endpoint.CDN)}
        emulator.journal.clear()

    def __call__(self, endpoint: Endpoint, **options: Any) -> Heard:
        if endpoint is Endpoint.CDN:
            return exchange(self.video_url, **options)
        ids = json.dumps({"_ids": f"{FIRST},{SECOND}"}).encode()
        return exchange(f"{self._emulator.base_url}/api/open/v4/image2Video/resultsByIds", ids, **options)


@pytest.fixture
def calls(emulator: AkoolEmulator) -> Calls:
    return Calls(emulator)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a client hears: of the head, and of the body beside the normal answer."""

    ending: str = "whole"
    status: int | None = 200
    code: int | None = None
    media: str | None = None
    location: str | None = None
    sized: bool = True
    body: Callable[[bytes, bytes], bool] = lambda body, normal: True
    rows: Callable[[Sequence[Row], Sequence[Row]], bool] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)


def is_half(body: bytes, normal: bytes) -> bool:
    return 0 < len(body) <= len(normal) // 2 + 1 and normal.startswith(body)


def is_same(body: bytes, normal: bytes) -> bool:
    return body == normal


def gateway(status: int) -> Expected:
    return Expected(status=status, media="text/html", options={"retry_after": DATE})


CONNECTIONS = {
    "latency": Expected(body=is_same, options={"seconds": 90.0}),
    "reset": Expected(ending="reset", status=None),
    "reset_body": Expected(ending="reset", body=is_half),
    "timeout": Expected(ending="silent", status=None, client={"timeout": 0.05}),
    "short_body": Expected(ending="cut", body=is_half),
    "short_body_unsized": Expected(body=is_half, sized=False),
    "slow_drip": Expected(
        ending="endless",
        sized=False,
        body=lambda body, normal: body[: len(normal)] == normal[: len(body)] and not body[len(normal) :].strip(b"\0"),
        options={"every": 0.01},
    ),
    "oversized": Expected(sized=False, body=lambda body, normal: len(body) == 700_001, options={"bytes": 700_001}),
    "429": gateway(429),
    "500": gateway(500),
    "502": gateway(502),
    "503": gateway(503),
    "html_200": Expected(media="text/html"),
    "empty_body": Expected(body=lambda body, normal: body == b""),
}
OF_FIRST: dict[str, Any] = {"job_id": FIRST}
AT_THE_API = CONNECTIONS | {
    "1005": Expected(code=1005, options={"retry_after": 7}),
    "1015": Expected(code=1015),
    "2001": Expected(code=2001),
    "expired_token": Expected(code=1101),
    "banned_account": Expected(code=1200),
    "poison_id": Expected(code=1003, options=OF_FIRST),
    "foreign_id": Expected(code=1009, options=OF_FIRST),
    "cut_json": Expected(body=is_half),
    "data_null": Expected(code=1000, body=lambda body, normal: json.loads(body)["data"] is None),
    "empty_result": Expected(code=1000, rows=lambda rows, normal: rows == []),
    "unasked_rows": Expected(
        code=1000,
        rows=lambda rows, normal: (
            [row for row in rows if row in normal] == normal
            and [row["status"] for row in rows if row not in normal] == [4, 4]
            and THIRD in {row["_id"] for row in rows}
        ),
    ),
    "shuffled_rows": Expected(code=1000, rows=lambda rows, normal: rows == normal[::-1]),
    "missing_row": Expected(code=1000, options=OF_FIRST, rows=lambda rows, normal: rows == normal[1:]),
    "duplicate_rows": Expected(
        code=1000,
        options=OF_FIRST,
        rows=lambda rows, normal: (
            [row["_id"] for row in rows] == [FIRST] * 3 + [SECOND]
            and list(rows[:2]) == [normal[0]] * 2
            and rows[2]["status"] == 1
            and "video_url" not in rows[2]
        ),
    ),
    "numeric_strings": Expected(
        code=1000,
        options=OF_FIRST,
        rows=lambda rows, normal: (
            rows[1] == normal[1]
            and (rows[0]["status"], rows[0]["video_duration"]) == ("3", "0.5")
            and rows[0]["only_add_audio"] is False
            and {name: str(value) for name, value in rows[0].items()}
            == {name: str(value) for name, value in normal[0].items()}
        ),
    ),
    "unknown_status": Expected(
        code=1000, options=OF_FIRST, rows=lambda rows, normal: [row["status"] for row in rows] == [99, 3]
    ),
    "unknown_fields": Expected(
        code=1000,
        options=OF_FIRST,
        rows=lambda rows, normal: (
            rows[1] == normal[1] and rows[0].items() >= normal[0].items() and len(rows[0]) > len(normal[0])
        ),
    ),
    "no_video_url": Expected(
        code=1000,
        options=OF_FIRST,
        rows=lambda rows, normal: (
            rows[1] == normal[1]
            and rows[0] == {name: value for name, value in normal[0].items() if name != "video_url"}
        ),
    ),
    # For good: see the service's tests.
    "failed_job": Expected(code=1000, options={"job_id": f"{4:024x}"}, rows=lambda rows, normal: rows == normal),
}
AT_THE_CDN = CONNECTIONS | {
    "expired_url": Expected(status=403, media="application/xml"),
    "404": Expected(status=404, media="application/xml"),
    "410": Expected(status=410, media="application/xml"),
    "other_length": Expected(
        media="video/mp4", body=lambda body, normal: duration_of(body) == pytest.approx(0.25, abs=0.05)
    ),
    "redirect": Expected(status=302, location="?moved"),
    "redirect_loop": Expected(status=302, location="?loop"),
    "redirect_private": Expected(
        status=302, location="http://10.0.0.1/secret", options={"location": "http://10.0.0.1/secret"}
    ),
    "redirect_file": Expected(status=302, location="file:///etc/passwd"),
}
EXPECTED = {Endpoint.RESULTS: AT_THE_API, Endpoint.CDN: AT_THE_CDN}
CASES = [
    (name, endpoint)
    for name, kind in FAULT_KINDS.items()
    for endpoint in (Endpoint.RESULTS, Endpoint.CDN)
    if endpoint in kind.allowed
]


@pytest.mark.parametrize(("name", "endpoint"), CASES)
def test_each_fault_is_heard_once_and_then_all_is_well(
    name: str, endpoint: Endpoint, emulator: AkoolEmulator, calls: Calls
) -> None:
    expected = EXPECTED[endpoint][name]
    normal = calls.normal[endpoint]
    emulator.faults.add(name, times=1, endpoint=endpoint, **expected.options)
    # A drip goes on after the end of the short body; waiting for the end of the long one would only take time.
    enough = {"most": {Endpoint.RESULTS: len(normal.body) + 1, Endpoint.CDN: 50}[endpoint]}
    enough = enough if expected.ending == "endless" else {}
    heard = calls(endpoint, **expected.client, **enough)

    assert (heard.ending, heard.status) == (expected.ending, expected.status)
    if heard.status is not None:
        assert ("content-length" in heard.headers) == expected.sized
    if name.startswith("short_body_unsized"):
        assert "transfer-encoding" not in heard.headers  # whose end could be told
    assert heard.headers.get("retry-after") == (
        None if "retry_after" not in expected.options else str(expected.options["retry_after"])
    )
    assert heard.headers.get("location") == expected.location
    if expected.media is not None:
        assert heard.headers["content-type"].partition(";")[0] == expected.media
    if expected.code is not None:
        assert json.loads(heard.body)["code"] == expected.code
    if expected.rows is not None:
        assert expected.rows(heard.rows, normal.rows)
    assert expected.body(heard.body, normal.body)

    told = [name] if name != "failed_job" else []
    assert [fault for request in emulator.journal.requests for fault in request.faults] == told
    emulator.faults.clear()
    assert calls(endpoint).body == normal.body


@pytest.mark.parametrize("endpoint", list(EXPECTED))
def test_nothing_is_expected_of_a_fault_that_is_not_there(endpoint: Endpoint) -> None:
    assert EXPECTED[endpoint].keys() == {name for name, kind in FAULT_KINDS.items() if endpoint in kind.allowed}


@pytest.mark.parametrize("http_status", [500, 503])
def test_a_poison_id_may_answer_an_http_error_or_another_code(
    http_status: int, emulator: AkoolEmulator, calls: Calls
) -> None:
    emulator.faults.add("poison_id", job_id=FIRST, http_status=http_status)
    assert calls(Endpoint.RESULTS).status == http_status
    emulator.faults.clear()
    emulator.faults.add("poison_id", job_id=SECOND, code=1014)
    assert json.loads(calls(Endpoint.RESULTS).body)["code"] == 1014


def test_latency_passes_on_the_emulators_clock(emulator: AkoolEmulator, calls: Calls, clock: FakeClock) -> None:
    before = clock.monotonic()
    emulator.faults.add("latency", times=1, seconds=90, jitter=5)
    calls(Endpoint.RESULTS)
    assert 85 <= clock.monotonic() - before <= 95


def test_a_good_redirect_leads_to_the_file_and_a_loop_to_itself(emulator: AkoolEmulator, calls: Calls) -> None:
    emulator.faults.add("redirect")
    first = calls(Endpoint.CDN)
    assert exchange(urljoin(calls.video_url, first.headers["location"])).body == emulator.video_bytes(FIRST)
    emulator.faults.clear()
    emulator.faults.add("redirect_loop", times=1)
    url = calls.video_url
    for _ in range(10):
        heard = exchange(url)
        assert heard.status == 302
        url = urljoin(url, heard.headers["location"])


def test_faults_of_one_jobs_file_leave_the_others_alone(emulator: AkoolEmulator, calls: Calls) -> None:
    emulator.faults.add("404", job_id=SECOND)
    assert calls(Endpoint.CDN).status == 200


def test_a_reset_of_a_kept_connection_leaves_other_connections_alone(emulator: AkoolEmulator) -> None:
    url = f"{emulator.base_url}/api/open/v4/image2Video/resultsByIds"
    with requests.Session() as one, requests.Session() as other:
        for session in (one, other):
            assert session.post(url, json={"_ids": FIRST}, headers=KEY, timeout=10).json()["code"] == 1000
        emulator.faults.add("reset", times=1)
        with pytest.raises(requests.ConnectionError):
            one.post(url, json={"_ids": FIRST}, headers=KEY, timeout=10)
        assert other.post(url, json={"_ids": FIRST}, headers=KEY, timeout=10).json()["code"] == 1000


class Patient(FakeClock):
    """Whoever waits by it waits until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waiting.set()
        return event.wait(10)


@pytest.mark.parametrize(
    ("name", "options"),
    [("timeout", {}), ("slow_drip", {"every": 1e9, "seconds": 1e12}), ("latency", {"seconds": 1e9})],
)
def test_whatever_is_held_open_ends_when_the_emulator_stops(name: str, options: dict[str, Any]) -> None:
    clock = Patient()
    heard: list[Heard] = []
    threads = set(threading.enumerate())
    with AkoolEmulator(clock=clock) as emulator:
        url = f"{emulator.base_url}/api/open/v4/image2Video/resultsByIds"
        emulator.faults.add(name, endpoint="resultsByIds", **options)
        asking = threading.Thread(target=lambda: heard.append(exchange(url, b'{"_ids":"a"}')))
        asking.start()
        if name == "timeout":  # which waits by no clock
            while not emulator.journal.requests and asking.is_alive():
                asking.join(0.001)
        else:
            assert clock.waiting.wait(10)
        assert heard == []
    asking.join(10)
    assert [one.ending for one in heard] == ["reset"]
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads


def test_a_held_answer_ends_with_a_reset_when_its_time_is_over(emulator: AkoolEmulator, calls: Calls) -> None:
    emulator.faults.script([{"name": "timeout", "seconds": 0}, {"name": "slow_drip", "seconds": 5, "every": 1}])
    assert calls(Endpoint.RESULTS).ending == "reset"
    dripped = calls(Endpoint.RESULTS)
    assert (dripped.ending, dripped.body) == ("reset", calls.normal[Endpoint.RESULTS].body[:5])
