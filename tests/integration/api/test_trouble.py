"""The client over real sockets when things go wrong: what is repeated, and every bound on time and size."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from akool_dagster.api import (
    AkoolAccountError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolDeadlineError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
    Token,
)
from akool_dagster.base.clock import Deadline, SystemClock
from tests.api_server import ID, OK, OTHER, PAIR, Answer, Connect, ScriptedServer, Seen, connecting, reset, serve
from tests.clock import FakeClock

server = pytest.fixture(serve)
connect = pytest.fixture(connecting)


# --- what is repeated and what is not ---


def short_body(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"code":1000,"data":null}')
    handler.close_connection = True


def cut_chunk(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n19\r\n{"code":1000,"data":null}\r\n')
    handler.close_connection = True


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(status=502, body=b"<html>"),
        Answer(status=500, body={"code": 4711}),
        Answer(status=429),
        Answer({"code": 1005}),
        Answer({"code": 1015}),
        Answer({"code": 2001}),
        Answer(b"<html>a gateway</html>"),
        Answer(b""),
        Answer(act=reset),
        Answer(act=short_body),
        Answer(act=cut_chunk),
    ],
    ids=lambda answer: answer.act.__name__ if answer.act else f"{answer.status}-{answer.body!r}",
)
def test_passing_trouble_is_waited_out(
    server: ScriptedServer, connect: Connect, clock: FakeClock, trouble: Answer
) -> None:
    server.script = [trouble, trouble, Answer(OK)]
    client = connect()
    assert ID in client.results([ID]).rows
    assert client.calls == 3
    assert len(clock.sleeps) == 2
    assert all(0 <= wait <= 1 for wait in clock.sleeps)


@pytest.mark.parametrize(
    ("trouble", "leaf"),
    [
        (Answer(status=502), AkoolTransientError),
        (Answer({"code": 1005}), AkoolThrottledError),
        (Answer(act=reset), AkoolTransientError),
    ],
    ids=["502", "1005", "reset"],
)
def test_lasting_trouble_is_raised_after_the_attempts(
    server: ScriptedServer, connect: Connect, clock: FakeClock, trouble: Answer, leaf: type[AkoolError]
) -> None:
    server.script = [trouble]
    client = connect(attempts=3)
    with pytest.raises(leaf):
        client.results([ID])
    assert (client.calls, len(clock.sleeps)) == (3, 2)


@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (Answer({"code": 1008}), AkoolContentError),
        (Answer({"code": 1003}, status=400), AkoolContentError),
        (Answer({"code": 1200}), AkoolAccountError),
        (Answer({"code": 1104}), AkoolAccountError),
        (Answer({"code": 1007}), AkoolResponseError),
        (Answer({"code": 4711}), AkoolResponseError),
        (Answer(status=404), AkoolResponseError),
        (Answer(status=403), AkoolCredentialsError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{value.status}-{value.body!r}",
)
def test_trouble_that_does_not_pass_is_raised_at_once(
    server: ScriptedServer, connect: Connect, clock: FakeClock, answer: Answer, leaf: type[AkoolError]
) -> None:
    server.script = [answer]
    client = connect()
    with pytest.raises(leaf) as caught:
        client.results([ID])
    assert caught.value.job_id == ID
    with pytest.raises(leaf) as caught:
        client.results([ID, OTHER])
    assert caught.value.job_id is None
    assert (client.calls, clock.sleeps) == (2, [])


def test_retry_after_is_waited_for_when_it_is_short(server: ScriptedServer, connect: Connect, clock: FakeClock) -> None:
    date = "Thu, 09 Oct 2025 08:53:35 GMT"  # the fake clock stands at 08:53:20, and at :32 after the first wait
    server.script = [
        Answer(status=429, headers={"Retry-After": "12"}),
        Answer({"code": 1005}, headers={"Retry-After": date}),
        Answer(OK),
    ]
    connect().results([ID])
    assert clock.sleeps == [12.0, 3.0]


@pytest.mark.parametrize(("retry_after", "seconds_left"), [("31", None), ("12", 11.0)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_that_is_too_long_ends_the_call_at_once(
    server: ScriptedServer,
    connect: Connect,
    clock: FakeClock,
    status: int,
    retry_after: str,
    seconds_left: float | None,
) -> None:
    server.script = [Answer(status=status, headers={"Retry-After": retry_after})]
    deadline = None if seconds_left is None else Deadline(clock, seconds_left)
    with pytest.raises(AkoolThrottledError) as caught:
        connect().results([ID], deadline=deadline)
    assert caught.value.retry_after == float(retry_after)
    assert clock.sleeps == []


def test_nobody_listening_is_transient(connect: Connect, clock: FakeClock) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = connect(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}", attempts=2)
        with pytest.raises(AkoolTransientError, match="could not be reached"):
            client.results([ID])
    assert (client.calls, len(clock.sleeps)) == (2, 1)


# --- time and size ---


def test_no_call_is_sent_after_the_deadline(server: ScriptedServer, connect: Connect, clock: FakeClock) -> None:
    client = connect()
    with pytest.raises(AkoolDeadlineError):
        client.results([ID], deadline=Deadline(clock, 0))
    assert (client.calls, server.seen) == (0, [])


def test_repeats_and_waits_stay_inside_the_deadline(server: ScriptedServer, connect: Connect, clock: FakeClock) -> None:
    server.script = [Answer(status=502)]
    client = connect(attempts=1000)
    with pytest.raises(AkoolDeadlineError, match="HTTP 502"):
        client.results([ID], deadline=Deadline(clock, 20))
    assert client.calls > 3
    assert 10 < sum(clock.sleeps) < 20


def stall(released: threading.Event) -> Answer:
    """An answer that comes late: a client that waits for it gets it and raises nothing."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        released.wait(3)
        raw = json.dumps(OK).encode()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))

    return Answer(act=act)


def test_a_stalled_answer_is_given_up_at_the_deadline(server: ScriptedServer, connect: Connect) -> None:
    released = threading.Event()
    server.script = [stall(released)]
    system = SystemClock()
    client = connect(clock=system, read_timeout=30)
    try:
        with pytest.raises(AkoolDeadlineError, match="took too long"):
            client.results([ID], deadline=Deadline(system, 0.2))
    finally:
        released.set()
    assert client.calls == 1


def test_the_read_timeout_holds_without_a_deadline(server: ScriptedServer, connect: Connect) -> None:
    released = threading.Event()
    server.script = [stall(released)]
    try:
        with pytest.raises(AkoolTransientError, match=r"sent nothing for 0\.05 s"):
            connect(read_timeout=0.05, attempts=1).results([ID])
    finally:
        released.set()


def test_waiting_for_another_threads_token_ends_at_the_deadline(server: ScriptedServer, connect: Connect) -> None:
    asked, released = threading.Event(), threading.Event()

    def respond(seen: Seen) -> Answer:
        asked.set()
        released.wait(10)
        return Answer({"code": 1000, "token": "t1"})

    server.respond = respond
    system = SystemClock()
    client = connect(PAIR, clock=system)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.get_token)
        assert asked.wait(10)
        try:
            with pytest.raises(AkoolDeadlineError, match="another thread"):
                client.results([ID], deadline=Deadline(system, 0.05))
        finally:
            released.set()
        assert first.result() == Token("t1")


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_larger_than_the_limit_is_not_read_to_its_end(
    server: ScriptedServer, connect: Connect, chunked: bool
) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 99999999999"
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        block = b" " * 65536
        while True:  # until the client hangs up
            handler.wfile.write(b"10000\r\n" + block + b"\r\n" if chunked else block)

    server.script = [Answer(act=flood)]
    with pytest.raises(AkoolResponseError, match="fewer ids"):
        connect(largest_answer=200_000).results([ID])
