from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.emulator.answers import Answer, envelope, file_answer
from akool_dagster.emulator.mp4 import Video

CONTENT = bytes(range(100))
VIDEO = Video(CONTENT, '"tag"')
MODIFIED = "Thu, 09 Oct 2025 08:53:20 GMT"


def ask(range_header: str | None, if_range: str | None = None) -> Answer:
    return file_answer(VIDEO, modified_ms=1_760_000_000_999, range_header=range_header, if_range=if_range)


def test_a_file_comes_whole_with_its_tag_and_time() -> None:
    answer = ask(None)
    assert (answer.http_status, answer.body, answer.media_type) == (200, CONTENT, "video/mp4")
    assert dict(answer.headers) == {"ETag": '"tag"', "Accept-Ranges": "bytes", "Last-Modified": MODIFIED}


@given(first=st.integers(0, 150), length=st.none() | st.integers(1, 150))
def test_a_range_is_that_slice_of_the_file(first: int, length: int | None) -> None:
    last = "" if length is None else first + length - 1
    answer = ask(f"bytes={first}-{last}")
    wanted = CONTENT[first:] if length is None else CONTENT[first : first + length]
    if wanted:
        assert (answer.http_status, answer.body) == (206, wanted)
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(wanted) - 1}/100"
        assert answer.headers["ETag"] == '"tag"'
    else:
        assert (answer.http_status, answer.headers["Content-Range"]) == (416, "bytes */100")


@given(length=st.integers(1, 150))
def test_a_suffix_is_the_end_of_the_file(length: int) -> None:
    answer = ask(f"bytes=-{length}")
    assert (answer.http_status, answer.body) == (206, CONTENT[-length:])


@pytest.mark.parametrize("unsatisfiable", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_beyond_the_file_is_refused(unsatisfiable: str) -> None:
    assert ask(unsatisfiable).http_status == 416


@pytest.mark.parametrize(
    "ignored",
    ["", "bytes=", "bytes=-", "bytes=9-3", "bytes=0-1,5-6", "items=0-1", "bytes=a-b", "bytes=1" + "0" * 5000],
)
def test_a_range_that_makes_no_sense_is_ignored(ignored: str) -> None:
    answer = ask(ignored)
    assert (answer.http_status, answer.body) == (200, CONTENT)


@pytest.mark.parametrize(
    ("if_range", "http_status"),
    [('"tag"', 206), (MODIFIED, 206), ('"older"', 200), ("Wed, 08 Oct 2025 08:53:20 GMT", 200), ("", 200)],
)
def test_a_range_for_another_version_gets_the_whole_file(if_range: str, http_status: int) -> None:
    assert ask("bytes=0-9", if_range).http_status == http_status


def test_an_envelope_is_a_200_with_its_code() -> None:
    answer = envelope(1003, "no", data=None)
    assert (answer.http_status, answer.code, answer.media_type) == (200, 1003, "application/json")
    assert json.loads(answer.body) == {"code": 1003, "msg": "no", "data": None}
