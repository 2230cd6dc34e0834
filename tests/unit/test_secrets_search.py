"""The search for secrets finds what was planted; else its silence would mean nothing."""

from __future__ import annotations

import base64
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.secrets import Haystack, mark

SECRET = mark("planted")


class Shy:
    def __repr__(self) -> str:
        return "Shy()"

    def __str__(self) -> str:
        return SECRET


def in_a_local_variable() -> None:
    hidden = SECRET
    raise RuntimeError(f"{len(hidden)}")


def in_the_cause() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        raise RuntimeError("outer") from error


def in_the_hidden_context() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        raise RuntimeError("outer") from None


def in_an_attribute() -> None:
    error = RuntimeError("outer")
    error.request = {"key": SECRET}  # type: ignore[attr-defined]
    raise error


@pytest.mark.parametrize("raising", [in_a_local_variable, in_the_cause, in_the_hidden_context, in_an_attribute])
def test_a_secret_is_found_in_an_exception(raising: Callable[[], None]) -> None:
    haystack = Haystack()
    with pytest.raises(RuntimeError) as caught:
        raising()
    haystack.add_error("errors", caught.value, with_locals=True)
    assert haystack.find([SECRET]) == {(SECRET, "errors")}


@pytest.mark.parametrize("before", [b"", b"a", b"ab"])
@pytest.mark.parametrize("spelled", [bytes, lambda raw: raw.hex().encode(), base64.b64encode, lambda raw: raw.upper()])
def test_a_secret_is_found_however_it_is_spelled(spelled: Callable[[bytes], bytes], before: bytes) -> None:
    haystack = Haystack()
    haystack.add("here", b"x" + spelled(before + SECRET.encode() + b"behind"))
    haystack.add("there", b"nothing")
    haystack.add_object("objects", Shy())
    assert haystack.find([SECRET, mark("other")]) == {(SECRET, "here"), (SECRET, "objects")}


def test_a_secret_is_found_in_a_file_of_any_kind(tmp_path: Path) -> None:
    for kind in ("name", "text", "database", "packed", "table", "table metadata"):
        (tmp_path / kind).mkdir()
    (tmp_path / "name" / f"{SECRET}.mp4").touch()
    (tmp_path / "text" / "a.partial").write_text(f"{{{SECRET}}}")
    for kind, value in (("database", SECRET + "x" * 9000), ("packed", zlib.compress(SECRET.encode()))):
        with closing(sqlite3.connect(tmp_path / kind / "a.sqlite")) as connection, connection:
            connection.execute("CREATE TABLE t (x)")
            connection.execute("INSERT INTO t VALUES (?)", ["x" * 4000 + value if isinstance(value, str) else value])
    table = pa.table({"x": ["y" * 1000 + SECRET] * 3})
    pq.write_table(table, tmp_path / "table" / "a.parquet", compression="zstd")
    pq.write_table(
        pa.table({"x": [1]}).replace_schema_metadata({"k": SECRET}), tmp_path / "table metadata" / "a.parquet"
    )
    haystack = Haystack()
    for folder in tmp_path.iterdir():
        haystack.add_folder(folder.name, folder)
    assert {place for _, place in haystack.find([SECRET])} == {folder.name for folder in tmp_path.iterdir()}
