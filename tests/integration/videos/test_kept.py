"""Files that are in the storage root before a download: stored videos, and what the verifier refused."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from akool_dagster.ledger import LeaseLostError
from akool_dagster.storage import OsFiles, StorageFullError, StorageRoot
from akool_dagster.videos.errors import Failure
from tests.integration.videos.helpers import FOLDER, Fetch, files_below, requested
from tests.mp4 import render_video
from tests.object_store import ObjectStore
from tests.video_server import VideoServer

pytest_plugins = ["tests.integration.object_stores"]

pytestmark = pytest.mark.usefixtures("system_temporary_folder")

STORED, KEPT = f"{FOLDER}/job.mp4", f"{FOLDER}/job.unverified"
WHOLE = render_video(movflags="+faststart")
CUT = WHOLE[: len(WHOLE) * 9 // 10]
SHORTER = WHOLE[: len(WHOLE) // 2]


@pytest.fixture(params=["local", "remote"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StorageRoot:
    if request.param == "local":
        return StorageRoot(str(tmp_path / "root"))
    store: ObjectStore = request.getfixturevalue("object_store")
    return StorageRoot(store.url)


def put(root: StorageRoot, relative: str, content: bytes) -> None:
    with root.temporary(relative) as path:
        path.write_bytes(content)
        root.publish(path, relative)


def names(root: StorageRoot) -> list[str]:
    return root.list_files(FOLDER)


# What is there


@pytest.mark.parametrize(
    "there", [{STORED: WHOLE}, {KEPT: WHOLE}, {STORED: WHOLE, KEPT: CUT}, {STORED: CUT, KEPT: WHOLE}]
)
def test_a_whole_video_that_is_there_is_taken_without_a_download(
    there: dict[str, bytes], fetch: Fetch, server: VideoServer, root: StorageRoot
) -> None:
    for place, content in there.items():
        put(root, place, content)
    fetch(requested("job", server.serve("/a", render_video(2))))
    stored = fetch.stored("job")
    assert (stored.path, stored.downloaded, stored.bytes) == (STORED, False, len(WHOLE))
    assert (stored.sha256, stored.facts.frames) == (hashlib.sha256(WHOLE).hexdigest(), 24)
    assert (names(root), root.read_bytes(STORED)) == (["job.mp4"], WHOLE)
    assert (server.requests, fetch.refreshed) == ([], [])


def test_a_video_that_is_there_needs_no_url_and_akool_is_asked_for_the_one_that_the_row_lacks(
    fetch: Fetch, root: StorageRoot, server: VideoServer
) -> None:
    put(root, STORED, WHOLE)
    fetch(requested("job", ""))
    assert (fetch.stored("job").source_url, fetch.refreshed, server.requests) == ("", ["job"], [])


@pytest.mark.parametrize("place", [STORED, KEPT])
def test_a_file_that_is_no_whole_video_makes_way_for_the_whole_one(
    place: str, fetch: Fetch, server: VideoServer, root: StorageRoot
) -> None:
    put(root, place, CUT)
    fetch(requested("job", server.serve("/a", WHOLE)))
    assert fetch.stored("job").downloaded
    assert (names(root), root.read_bytes(STORED)) == (["job.mp4"], WHOLE)


# What is refused


def test_what_the_verifier_refuses_is_kept_and_named(fetch: Fetch, server: VideoServer, root: StorageRoot) -> None:
    fetch(requested("job", server.serve("/a", CUT)))
    failed = fetch.failed("job")
    assert (failed.refused, failed.counts, failed.kept) == (True, True, KEPT)
    assert failed.failure is Failure.PASSING
    assert failed.error.endswith(f"The file is kept as {KEPT}.")
    assert (names(root), root.read_bytes(KEPT)) == (["job.unverified"], CUT)


@pytest.mark.parametrize(("first", "second"), [(SHORTER, CUT), (CUT, SHORTER)])
def test_the_largest_file_is_kept(
    first: bytes, second: bytes, fetch: Fetch, server: VideoServer, root: StorageRoot
) -> None:
    url = server.serve("/a", first)
    fetch(requested("job", url))
    fetch.outcomes.clear()
    server.serve("/a", second)
    fetch(requested("job", url, attempts=1))
    assert fetch.failed("job").refused
    assert (names(root), root.read_bytes(KEPT)) == (["job.unverified"], CUT)


@pytest.mark.parametrize(
    "body",
    [
        "<!doctype html><p>Wartung: bitte sp\xe4ter</p>".encode("latin-1"),
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b'\xef\xbb\xbf{"code": 1003, "msg": "no"}',
        b"x" + "wait \N{HOURGLASS} ".encode() * 1000,
    ],
    ids=["HTML", "XML", "JSON", "UTF-8"],
)
def test_a_text_is_not_kept_and_is_no_refusal(body: bytes, server: VideoServer, tmp_path: Path) -> None:
    fetch = Fetch(server, StorageRoot(str(tmp_path)))
    fetch(requested("job", server.serve("/a", body)))
    failed = fetch.failed("job")
    assert (failed.refused, failed.counts, failed.kept) == (False, True, None)
    assert failed.error.endswith("It begins like a text and is not kept.")
    assert files_below(StorageRoot(str(tmp_path))) == []


@pytest.mark.parametrize("body", [bytes(5000), b"\x1a\x45\xdf\xa3junk\x00", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_bytes_that_may_be_a_video_are_kept_and_named_by_every_later_failure(
    body: bytes, server: VideoServer, tmp_path: Path
) -> None:
    root = StorageRoot(str(tmp_path))
    fetch = Fetch(server, root)
    fetch(requested("job", server.serve("/a", body)))
    assert root.read_bytes(KEPT) == body
    fetch.outcomes.clear()
    fetch(requested("job", server.url("/gone")))
    failed = fetch.failed("job")
    assert (failed.refused, failed.kept, failed.failure) == (False, KEPT, Failure.GONE)


# What cannot be kept


class CannotKeep(OsFiles):
    """A disk that shows no file under the name of a kept one."""

    def __init__(self, code: int) -> None:
        self._code = code

    def replace(self, source: Path, target: Path) -> None:
        if target.suffix == ".unverified":
            raise OSError(self._code, os.strerror(self._code))
        super().replace(source, target)


def test_an_attempt_whose_file_cannot_be_kept_does_not_count(server: VideoServer, tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path), files=CannotKeep(errno.EACCES))
    fetch = Fetch(server, root)
    fetch(requested("job", server.serve("/a", CUT)), requested("good", server.serve("/good", WHOLE)))
    failed = fetch.failed("job")
    assert (failed.refused, failed.counts, failed.kept, failed.failure) == (True, False, None, Failure.PASSING)
    assert f"The file could not be kept: Cannot write {root.uri(KEPT)}: Permission denied" in failed.error
    assert fetch.stored("good")
    assert names(root) == ["good.mp4"]


def test_a_disk_too_full_to_keep_a_file_ends_the_fetch_without_an_outcome(server: VideoServer, tmp_path: Path) -> None:
    fetch = Fetch(server, StorageRoot(str(tmp_path), files=CannotKeep(errno.ENOSPC)))
    with pytest.raises(StorageFullError):
        fetch(requested("job", server.serve("/a", CUT)))
    assert fetch.outcomes == {}


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_run_without_its_lease_shows_no_file(
    is_kept: bool, fetch: Fetch, server: VideoServer, root: StorageRoot
) -> None:
    if is_kept:
        put(root, KEPT, WHOLE)

    def refuse() -> None:
        raise LeaseLostError("The lease ran out.")

    with pytest.raises(LeaseLostError):
        fetch(requested("job", server.serve("/a", CUT)), before_publish=refuse)
    assert names(root) == (["job.unverified"] if is_kept else [])
