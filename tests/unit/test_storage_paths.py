from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.storage import StorageError, StorageRoot

SECRET = "hunter2"
parts = st.from_regex(re.compile(r"[A-Za-z0-9._:=-]{1,20}"), fullmatch=True)


@pytest.mark.parametrize("url", ["data", "./data", "../data", "file://data", "~/data"])
def test_a_relative_root_is_refused_with_its_absolute_form(url: str) -> None:
    path = url.removeprefix("file://")
    absolute = str(Path(path).expanduser().resolve())
    with pytest.raises(StorageError, match=re.escape(absolute)):
        StorageRoot(url)


@pytest.mark.parametrize("url", ["", "  ", "/data\0x"])
def test_a_root_that_is_no_path_at_all_is_refused(url: str) -> None:
    with pytest.raises(StorageError):
        StorageRoot(url)


def test_an_unknown_driver_is_named_without_the_credentials() -> None:
    with pytest.raises(StorageError) as caught:
        StorageRoot(f"nosuchdriver://user:{SECRET}@bucket/x?token={SECRET}")
    assert "nosuchdriver" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_credentials_in_the_url_are_shown_nowhere() -> None:
    root = StorageRoot(f"memory://user:{SECRET}@bucket/x?token={SECRET}")
    assert repr(root) == "StorageRoot('memory://bucket/x')"
    assert root.uri("a/b.mp4") == "memory://bucket/x/a/b.mp4"
    with pytest.raises(StorageError) as caught:
        root.size("missing")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["/data/root", "/data/root/", "file:///data/root"])
def test_a_local_root_shows_as_its_path(url: str) -> None:
    root = StorageRoot(url)
    assert root.is_local
    assert root.uri() == "/data/root"
    assert root.uri("akool/x.parquet") == "/data/root/akool/x.parquet"


@pytest.mark.parametrize(
    "relative",
    ["", "/x", "a//b", "a/", "..", "a/../b", "./a", "a\\b", "a\0b", "a b", "ä", "a/*", "~/x", "a\n", "a?b", "s3://x"],
)
def test_what_is_no_plain_path_below_the_root_is_refused(relative: str, tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path))
    with pytest.raises(StorageError, match="not a path below the storage root"):
        root.exists(relative)


@given(st.lists(parts, min_size=1, max_size=4))
def test_every_plain_path_stays_below_the_root(pieces: list[str]) -> None:
    root = StorageRoot("/data/root")
    relative = "/".join(pieces)
    if "." in pieces or ".." in pieces:
        with pytest.raises(StorageError):
            root.uri(relative)
    else:
        assert Path(root.uri(relative)).resolve().is_relative_to("/data/root")
        assert root.uri(relative) == f"/data/root/{relative}"


@given(st.text(max_size=40))
def test_no_text_escapes_the_root(text: str) -> None:
    root = StorageRoot("/data/root")
    try:
        uri = root.uri(text or ".")
    except StorageError:
        return
    assert Path(uri).resolve().is_relative_to("/data/root")
