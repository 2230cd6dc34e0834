"""The client over real sockets: what it sends, who it says it is, and where the key may go."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.api import (
    AkoolClient,
    AkoolConfigurationError,
    AkoolCredentialsError,
    AkoolError,
    AkoolResponseError,
    AkoolTransientError,
    ApiKey,
    ClientCredentials,
)
from tests.api_server import ID, KEY, OK, OTHER, PAIR, Answer, Connect, ScriptedServer, Seen, connecting, reset, serve

server = pytest.fixture(serve)
connect = pytest.fixture(connecting)


VENDOR = json.loads((Path(__file__).parents[2] / "data" / "results_completed.json").read_text())


# --- requests ---


def test_the_vendors_example_comes_back_as_a_row(server: ScriptedServer, connect: Connect) -> None:
    server.script = [Answer(VENDOR)]
    answer = connect().results([ID])
    assert answer.rows[ID].deduction_credit == 30.0
    assert answer.rows[ID].has_usable_video_url
    assert answer.missing == ()


def test_ids_go_as_one_comma_separated_text_trimmed_and_once(server: ScriptedServer, connect: Connect) -> None:
    client = connect()
    answer = client.results([f" {ID.upper()} ", OTHER, ID])
    assert answer.missing == (OTHER,)
    (request,) = server.seen
    assert (request.method, request.path) == ("POST", "/api/open/v4/image2Video/resultsByIds")
    assert json.loads(request.body) == {"_ids": f"{ID},{OTHER}"}
    assert request.headers["content-type"] == "application/json"
    assert client.calls == 1


@pytest.mark.parametrize("ids", [[], [""], ["a,b"], [ID, "x y"], ["x" * 65], ID])
def test_what_can_be_no_id_is_refused_before_any_call(server: ScriptedServer, connect: Connect, ids: Any) -> None:
    with pytest.raises(ValueError, match="id"):
        connect().results(ids)
    assert server.seen == []


def test_a_base_url_with_a_path_is_kept(server: ScriptedServer, connect: Connect) -> None:
    connect(base_url=server.url + "/gateway/").results([ID])
    assert server.seen[0].path == "/gateway/api/open/v4/image2Video/resultsByIds"


def test_the_balance_is_read_as_a_number(server: ScriptedServer, connect: Connect) -> None:
    server.script = [
        Answer({"code": 1000, "data": {"credit": 1234.5}}),
        Answer({"code": 1000, "data": {"credit": "7"}}),
    ]
    client = connect()
    assert (client.credit(), client.credit()) == (1234.5, 7.0)
    assert (server.seen[0].method, server.seen[0].path) == ("GET", "/api/open/v3/faceswap/quota/info")


@pytest.mark.parametrize(
    "data", [None, {}, {"credit": None}, {"credit": True}, {"credit": "much"}, {"credit": "inf"}, []]
)
def test_a_balance_that_is_no_number_is_an_error(server: ScriptedServer, connect: Connect, data: object) -> None:
    server.script = [Answer({"code": 1000, "data": data})]
    with pytest.raises(AkoolResponseError, match=r"data\.credit"):
        connect().credit()


# --- authentication ---


def test_one_auth_header_is_sent_whatever_netrc_has(
    server: ScriptedServer, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    connect().results([ID])
    server.script = [Answer({"code": 1000, "token": "t1"}), Answer(OK)]
    connect(PAIR).results([ID])
    assert [request.auth for request in server.seen] == [
        {"x-api-key": KEY.value},
        {},
        {"authorization": "Bearer t1"},
    ]


def test_a_token_is_fetched_once_and_then_sent_over_one_connection(server: ScriptedServer, connect: Connect) -> None:
    server.script = [Answer({"code": 1000, "token": "t1"}), Answer(OK)]
    client = connect(PAIR)
    client.results([ID])
    client.results([ID])
    assert len({request.connection for request in server.seen}) == 1
    assert [request.path.rpartition("/")[2] for request in server.seen] == ["getToken", "resultsByIds", "resultsByIds"]
    assert json.loads(server.seen[0].body) == {"clientId": PAIR.client_id, "clientSecret": PAIR.client_secret}
    assert server.seen[2].auth == {"authorization": "Bearer t1"}


def test_an_expired_token_is_renewed_once_and_the_call_repeated(server: ScriptedServer, connect: Connect) -> None:
    server.script = [
        Answer({"code": 1000, "token": "t1"}),
        Answer({"code": 1101}),
        Answer({"code": 1000, "token": "t2"}),
        Answer(OK),
    ]
    client = connect(PAIR)
    assert ID in client.results([ID]).rows
    assert server.seen[3].auth == {"authorization": "Bearer t2"}
    assert client.calls == 4


def test_a_token_refused_twice_is_a_credentials_error(server: ScriptedServer, connect: Connect) -> None:
    server.respond = lambda seen: Answer({"code": 1000, "token": "t"} if "getToken" in seen.path else {"code": 1101})
    client = connect(PAIR)
    with pytest.raises(AkoolCredentialsError, match="AKOOL_CLIENT_ID and AKOOL_CLIENT_SECRET"):
        client.results([ID])
    assert client.calls == 4


@pytest.mark.parametrize("code", [1101, 1102, 1109])
def test_a_refused_key_is_not_tried_again(server: ScriptedServer, connect: Connect, code: int) -> None:
    server.script = [Answer({"code": code, "msg": "no"})]
    with pytest.raises(AkoolCredentialsError, match="Check AKOOL_API_KEY") as caught:
        connect().results([ID])
    assert (caught.value.code, len(server.seen)) == (code, 1)


@pytest.mark.parametrize("token", [None, "", "a b", "t\r\nx: y", 7])
def test_a_token_that_no_header_can_carry_is_an_error(server: ScriptedServer, connect: Connect, token: object) -> None:
    server.script = [Answer({"code": 1000, "token": token})]
    with pytest.raises(AkoolResponseError, match="no usable token"):
        connect(PAIR).results([ID])


def test_a_pair_that_akool_objects_to_is_not_taken_for_a_bad_id(server: ScriptedServer, connect: Connect) -> None:
    server.script = [Answer({"code": 1003, "msg": "parameter error"})]
    with pytest.raises(AkoolCredentialsError, match="AKOOL_CLIENT_ID") as caught:
        connect(PAIR).results([ID, OTHER])
    assert caught.value.code == 1003


def test_eight_threads_renew_an_expired_token_only_once(server: ScriptedServer, connect: Connect) -> None:
    tokens = iter(["t1", "t2", "t3"])
    together = threading.Barrier(8)

    def respond(seen: Seen) -> Answer:
        if "getToken" in seen.path:
            return Answer({"code": 1000, "token": next(tokens)})
        if seen.auth == {"authorization": "Bearer t1"}:
            together.wait(timeout=10)  # all eight are refused at once
            return Answer({"code": 1101})
        return Answer(OK)

    server.respond = respond
    client = connect(PAIR)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.results([ID]), range(8)))
    assert all(ID in answer.rows for answer in answers)
    assert sum("getToken" in request.path for request in server.seen) == 2
    assert client.calls == len(server.seen) == 18


# --- where the key may go ---


def test_other_calls_use_the_proxy_of_the_environment_which_sees_no_key(
    server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", server.url.replace("http://", "http://someone:S3CR3T-proxy@"))
    server.script = [Answer(status=502)]
    with pytest.raises(AkoolTransientError) as caught:
        connect(base_url="https://api.example", attempts=1).results([ID])
    (request,) = server.seen
    assert (request.method, request.path, request.auth) == ("CONNECT", "api.example:443", {})
    assert "S3CR3T" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://api.example", "https://someone:S3CR3T@api.example"])
def test_an_unsafe_base_url_is_refused_before_any_call(url: str) -> None:
    with pytest.raises(AkoolConfigurationError):
        AkoolClient(KEY, base_url=url)


# --- secrets ---

ECHOING: dict[str, Callable[[str], Answer]] = {
    "success of a wrong shape": lambda echo: Answer({"code": 1000, "msg": echo, "data": echo}),
    "throttle": lambda echo: Answer({"code": 1005, "msg": echo}),
    "content error": lambda echo: Answer({"code": 1008, "msg": echo}),
    "refusal": lambda echo: Answer({"code": 1101, "msg": echo}),
    "unknown code": lambda echo: Answer({"code": 4711, "msg": echo}),
    "page": lambda echo: Answer(echo.encode()),
    "broken gateway": lambda echo: Answer(echo.encode(), status=502),
    "firewall": lambda echo: Answer(echo.encode(), status=403),
    "redirect": lambda echo: Answer(status=302, headers={"Location": f"https://x.example/?{echo.split()[0]}"}),
    "reset": lambda echo: Answer(act=reset),
}


@pytest.mark.parametrize("credentials", [KEY, PAIR], ids=["key", "pair"])
@pytest.mark.parametrize("kind", ECHOING)
def test_no_secret_reaches_a_repr_an_exception_or_a_log(
    server: ScriptedServer,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    credentials: ApiKey | ClientCredentials,
    kind: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    ours = KEY.value if credentials is KEY else f"{PAIR.client_id} {PAIR.client_secret} S3CR3T-token"
    echo = f"{ours} at https://u:S3CR3T@x.example/?S3CR3T"
    token = Answer({"code": 1000, "token": "S3CR3T-token"})
    server.respond = lambda seen: token if "getToken" in seen.path else ECHOING[kind](echo)
    client = connect(credentials)
    with pytest.raises(AkoolError) as caught:
        client.results([ID])
    for shown in ("".join(traceback.format_exception(caught.value)), repr(client), repr(vars(client)), caplog.text):
        assert "S3CR3T" not in shown
    assert b"S3CR3T" not in pickle.dumps(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
