"""What Akool answers when it is asked for a video's URL again, over the real client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from akool_dagster.api import AkoolClient
from akool_dagster.api.errors import AkoolConfigurationError
from akool_dagster.base.clock import Deadline
from akool_dagster.videos.refresh import GIVE_UP_AFTER, REFRESH_SECONDS, AkoolSays, Refreshed, UrlRefresher
from tests.api_server import ID, OTHER, Answer, Connect, ScriptedServer, connecting, serve
from tests.clock import FakeClock

URL = "https://cdn.example/known.mp4"
NEWER = "https://cdn.example/newer.mp4"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    yield from serve()


@pytest.fixture
def connect(server: ScriptedServer, clock: FakeClock) -> Iterator[Connect]:
    yield from connecting(server, clock)


@pytest.fixture
def refresher(connect: Connect, clock: FakeClock) -> UrlRefresher:
    return UrlRefresher(lambda: connect(attempts=1), clock)


def rows(*found: dict[str, object]) -> Answer:
    return Answer({"code": 1000, "msg": "OK", "data": {"result": list(found)}})


def row(job_id: str = ID, status: int = 3, url: str = NEWER) -> dict[str, object]:
    return {"_id": job_id, "status": status, "video_url": url}


def ask(refresher: UrlRefresher, clock: FakeClock, seconds: float = 600.0) -> Refreshed:
    return refresher.ask(ID, URL, Deadline(clock, seconds))


ANSWERS = {
    "a newer URL": (rows(row()), AkoolSays.NEW_URL, NEWER),
    "the same URL": (rows(row(url=URL)), AkoolSays.SAME_URL, URL),
    "rows of others, too": (rows(row(OTHER, url="https://cdn.example/other.mp4"), row()), AkoolSays.NEW_URL, NEWER),
    "only the row of another": (rows(row(OTHER)), AkoolSays.NO_ROW, None),
    "no row": (rows(), AkoolSays.NO_ROW, None),
    "no data": (Answer({"code": 1000, "data": None}), AkoolSays.NO_ROW, None),
    "no URL": (rows(row(url="")), AkoolSays.NO_URL, None),
    "something that is no URL": (rows(row(url="nonsense")), AkoolSays.NO_URL, None),
    "a status that is not final": (rows(row(status=2)), AkoolSays.NO_URL, None),
    "an unknown status": (rows(row(status=99)), AkoolSays.NO_URL, None),
    "a failed job": (rows(row(status=4)), AkoolSays.FAILED, None),
    "an unknown id": (Answer({"code": 1008, "msg": "x"}), AkoolSays.UNKNOWN_ID, None),
    "an unknown resource": (Answer({"code": 1014, "msg": "x"}), AkoolSays.UNKNOWN_ID, None),
    "not for this account": (Answer({"code": 1003, "msg": "x"}), AkoolSays.NOTHING, None),
    "no permission": (Answer({"code": 1009, "msg": "x"}), AkoolSays.NOTHING, None),
    "a wrong key": (Answer({"code": 1101, "msg": "x"}), AkoolSays.NOTHING, None),
    "a banned account": (Answer({"code": 1200, "msg": "x"}), AkoolSays.NOTHING, None),
    "a throttle": (Answer({"code": 1005, "msg": "x"}), AkoolSays.NOTHING, None),
    "an outage": (Answer(b"<html>", status=502), AkoolSays.NOTHING, None),
    "a row that cannot be read": (rows({"_id": ID, "status": "soon"}), AkoolSays.NOTHING, None),
}


@pytest.mark.parametrize(("answer", "says", "url"), ANSWERS.values(), ids=ANSWERS)
def test_each_answer_is_told_apart(
    answer: Answer,
    says: AkoolSays,
    url: str | None,
    refresher: UrlRefresher,
    server: ScriptedServer,
    clock: FakeClock,
) -> None:
    server.script = [answer]
    refreshed = ask(refresher, clock)
    assert (refreshed.says, refreshed.url) == (says, url)
    assert bool(refreshed.trouble) == (says is AkoolSays.NOTHING)
    assert (refreshed.expires_at_ms is not None) == (url is not None)
    assert refreshed.remark.endswith(".")
    assert "S3CR3T" not in refreshed.remark
    assert refresher.calls == len(server.seen) == 1


def test_without_a_key_nothing_is_asked_and_the_reason_is_told(clock: FakeClock) -> None:
    def no_client() -> AkoolClient:
        raise AkoolConfigurationError("Set AKOOL_API_KEY.")

    refresher = UrlRefresher(no_client, clock)
    assert ask(refresher, clock).remark == "Asking Akool for a new URL failed: Set AKOOL_API_KEY."
    assert refresher.calls == 0
    refresher.close()


def test_an_akool_that_fails_three_times_running_is_not_asked_again(
    refresher: UrlRefresher, server: ScriptedServer, clock: FakeClock
) -> None:
    server.script = [Answer(b"<html>", status=502)]
    told = [ask(refresher, clock).trouble for _ in range(GIVE_UP_AFTER + 5)]
    assert len(server.seen) == GIVE_UP_AFTER
    assert set(told[GIVE_UP_AFTER:]) == {"it failed 3 times in this run."}


def test_an_answer_in_between_counts_the_failures_anew(
    refresher: UrlRefresher, server: ScriptedServer, clock: FakeClock
) -> None:
    outage = Answer(b"<html>", status=502)
    server.script = [outage, outage, rows(row()), outage, outage, rows(row())]
    assert [ask(refresher, clock).says for _ in range(6)][-1] is AkoolSays.NEW_URL


def test_ids_that_akool_objects_to_are_no_failure_of_akool(
    refresher: UrlRefresher, server: ScriptedServer, clock: FakeClock
) -> None:
    server.script = [Answer({"code": 1009, "msg": "x"})]
    for _ in range(10):
        ask(refresher, clock)
    assert len(server.seen) == 10


def test_an_asking_takes_no_longer_than_the_file_has_and_never_longer_than_a_minute(
    connect: Connect, server: ScriptedServer, clock: FakeClock
) -> None:
    refresher = UrlRefresher(lambda: connect(attempts=1000), clock)
    server.script = [Answer({"code": 1015, "msg": "try later"})]
    for seconds, longest in ((20.0, 20.0), (600.0, REFRESH_SECONDS)):
        before = clock.monotonic()
        assert ask(refresher, clock, seconds).says is AkoolSays.NOTHING
        assert 0 < clock.monotonic() - before <= longest


def test_no_time_left_means_no_call(refresher: UrlRefresher, server: ScriptedServer, clock: FakeClock) -> None:
    assert ask(refresher, clock, 0.0).says is AkoolSays.NOTHING
    assert server.seen == []


def test_one_id_is_asked_for_at_a_time(refresher: UrlRefresher, server: ScriptedServer, clock: FakeClock) -> None:
    at_once, most = 0, 0
    lock = threading.Lock()

    def act(handler: BaseHTTPRequestHandler) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.02)
        with lock:
            at_once -= 1
        handler.send_response(200)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    server.script = [Answer(act=act)]
    threads = [threading.Thread(target=ask, args=(refresher, clock)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.seen), most) == (3, 1)
