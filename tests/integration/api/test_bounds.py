"""The client against servers that mean it harm: every wait ends, and nothing grows without a limit."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from akool_dagster.api import AkoolDeadlineError, AkoolError, AkoolResponseError, AkoolTransientError
from akool_dagster.base.clock import Deadline, SystemClock
from tests.api_server import ID, OK, OTHER, Answer, Connect, ScriptedServer, connecting, serve
from tests.clock import FakeClock

server = pytest.fixture(serve)
connect = pytest.fixture(connecting)

RAW = json.dumps(OK).encode()
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(RAW), RAW)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(RAW), RAW)


# --- time ---

# What comes first, what drips, and what would make a good answer of it in the end.
DRIPS: dict[str, tuple[bytes, Sequence[bytes], bytes]] = {
    "status line": (b"", [b"HTTP/1.1 200 ", *([b"O"] * 200)], b"\r\n" + WHOLE.partition(b"\r\n")[2]),
    "header": (b"HTTP/1.1 200 OK\r\nX-Drip: ", [b"x"] * 200, b"\r\n" + WHOLE.partition(b"\r\n")[2]),
    "interim answers": (b"", [b"HTTP/1.1 100 Continue\r\n\r\n"] * 200, WHOLE),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(RAW) + 200), [b" "] * 200, RAW),
    "size of a chunk": (CHUNKED, [b"0"] * 200, CHUNK + b"0\r\n\r\n"),
    "trailers": (CHUNKED + CHUNK + b"0\r\n", [b"X-Drip: x\r\n"] * 200, b"\r\n"),
}


def dripping(clock: FakeClock, start: bytes, drops: Sequence[bytes], rest: bytes) -> Answer:
    """An answer that is good in the end, 200 seconds later."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(start)
        for drop in drops:
            clock.advance(1)
            handler.wfile.write(drop)
            handler.wfile.flush()
        handler.wfile.write(rest)

    return Answer(act=act)


@pytest.mark.parametrize("drip", DRIPS)
def test_an_answer_that_drips_anywhere_ends_at_the_deadline(
    server: ScriptedServer, connect: Connect, clock: FakeClock, drip: str
) -> None:
    server.script = [dripping(clock, *DRIPS[drip])]
    with pytest.raises(AkoolDeadlineError, match=r"Attempt 1 ended with: .*took too long"):
        connect().results([ID], deadline=Deadline(clock, 45))


def test_a_name_that_is_not_resolved_ends_at_the_deadline(
    server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, resolve = threading.Event(), socket.getaddrinfo

    def slow(*where: Any, **options: Any) -> Any:
        assert answers.wait(60)
        return resolve(*where, **options)

    system = SystemClock()
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with pytest.raises(AkoolDeadlineError, match="took too long"):
            connect(clock=system).results([ID], deadline=Deadline(system, 0.05))
    finally:
        answers.set()
    assert server.seen == []


@pytest.mark.parametrize("drip", DRIPS)
def test_the_same_drip_within_the_deadline_is_an_answer(
    server: ScriptedServer, connect: Connect, clock: FakeClock, drip: str
) -> None:
    server.script = [dripping(clock, *DRIPS[drip])]
    assert ID in connect(attempts=1).results([ID], deadline=Deadline(clock, 450)).rows


def test_a_proxy_that_drips_its_head_ends_at_the_deadline(
    server: ScriptedServer, connect: Connect, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", server.url)
    server.script = [dripping(clock, b"HTTP/1.1 200 OK\r\n", [b"X-Drip: x\r\n"] * 200, b"\r\n")]
    with pytest.raises(AkoolDeadlineError, match=r"Attempt 1 ended with: .*took too long"):
        connect(base_url="https://api.example").results([ID], deadline=Deadline(clock, 45))
    assert [request.method for request in server.seen] == ["CONNECT"]


# --- size ---


def raw(head: bytes, piece: bytes, times: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        for _ in range(times):  # or until the client hangs up
            handler.wfile.write(piece)

    return act


@pytest.mark.parametrize(
    "act",
    [
        raw(b"HTTP/1.1 200 OK\r\n", b"X-Many: x\r\n", 100_000),
        raw(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 65536, 1000),
        raw(b"HTTP/1.1 200 ", b"x" * 65536, 1000),
        raw(CHUNKED, b"0" * 65536, 1000),
    ],
    ids=["many headers", "a long header", "a long status line", "a long size of a chunk"],
)
def test_a_head_without_end_is_not_read_to_its_end(
    server: ScriptedServer, connect: Connect, act: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    server.script = [Answer(act=act)]
    with pytest.raises(AkoolTransientError, match="could not be reached"):
        connect(attempts=1).results([ID])


def packed(body: bytes, encoding: str) -> Answer:
    assert set(encoding.split(", ")) <= {"gzip", "deflate"}
    for layer in encoding.split(", "):
        body = gzip.compress(body, 9) if layer == "gzip" else zlib.compress(body, 9)
    return Answer(body, headers={"Content-Encoding": encoding})


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_that_is_compressed_though_we_asked_for_none_is_read(
    server: ScriptedServer, connect: Connect, encoding: str
) -> None:
    server.script = [packed(RAW, encoding)]
    assert ID in connect().results([ID]).rows
    assert server.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_bomb_is_not_unpacked(server: ScriptedServer, connect: Connect, encoding: str) -> None:
    bomb = packed(b" " * 50_000_000, encoding)
    assert isinstance(bomb.body, bytes)
    assert len(bomb.body) < 100_000
    server.script = [bomb]
    with pytest.raises(AkoolResponseError, match="fewer ids"):
        connect(largest_answer=1_000_000).results([ID])


def test_an_answer_packed_in_layers_is_not_unpacked(server: ScriptedServer, connect: Connect) -> None:
    server.script = [packed(RAW, "gzip, gzip")]
    with pytest.raises(AkoolTransientError, match="not JSON"):
        connect(attempts=1).results([ID])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
def test_a_body_that_is_not_packed_as_it_says_is_read_as_it_is(
    server: ScriptedServer, connect: Connect, encoding: str
) -> None:
    server.script = [Answer(OK, headers={"Content-Encoding": encoding})]
    assert ID in connect().results([ID]).rows


@pytest.mark.parametrize("opening", ["[", '{"data":', '{"code":1000,"data":{"result":['])
def test_json_nested_without_end_is_no_answer(server: ScriptedServer, connect: Connect, opening: str) -> None:
    server.script = [Answer(opening.encode() * 200_000)]
    with pytest.raises(AkoolError):
        connect(attempts=1).results([ID])


def test_a_row_nested_too_deeply_spoils_no_other_row(server: ScriptedServer, connect: Connect) -> None:
    deep = "[" * 400 + "]" * 400
    rows = f'[{{"_id":"{ID}","status":1,"odd":{deep}}},{{"_id":"{OTHER}","status":1}}]'
    server.script = [Answer(f'{{"code":1000,"data":{{"result":{rows}}}}}'.encode())]
    answer = connect().results([ID, OTHER])
    assert list(answer.rows) == [OTHER]
    assert "nested" in answer.unparsable[ID]


@pytest.mark.parametrize("field", ["odd", "uid", "deduction_credit", "create_time", "prompt"])
def test_a_number_of_ten_thousand_digits_spoils_no_row(server: ScriptedServer, connect: Connect, field: str) -> None:
    digits = "9" * 10_000
    rows = f'[{{"_id":"{ID}","status":1,"{field}":{digits}}},{{"_id":"{OTHER}","status":1}}]'
    server.script = [Answer(f'{{"code":1000,"data":{{"result":{rows}}}}}'.encode())]
    answer = connect().results([ID, OTHER])
    assert set(answer.rows) == {ID, OTHER}
    assert digits in answer.rows[ID].to_payload()


def test_rows_that_nobody_asked_for_are_counted_and_forgotten(server: ScriptedServer, connect: Connect) -> None:
    rows: list[object] = [{"_id": f"{number:024x}", "status": 3} for number in range(20_000)]
    server.script = [Answer({"code": 1000, "data": {"result": [*rows, {"_id": ID, "status": 1}]}})]
    answer = connect().results([ID])
    assert list(answer.rows) == [ID]
    assert answer.ignored == 20_000
