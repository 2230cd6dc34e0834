"""A disk with too little space: known before a download where that is possible, and no video's fault."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from akool_dagster.storage import OsFiles, StorageFullError, StorageRoot
from akool_dagster.videos.disk import DiskReservations, DiskTooSmallError
from akool_dagster.videos.store import Outcome
from tests.integration.videos.helpers import FOLDER, Fetch, files_below, requested
from tests.mp4 import render_video
from tests.video_server import Answer, VideoServer

pytestmark = pytest.mark.usefixtures("system_temporary_folder")

MB = 1_000_000


class Disk(OsFiles):
    """Has so many bytes free, and remembers which folder it was asked about."""

    def __init__(self, free: int | None) -> None:
        self.free = free
        self.asked: set[Path] = set()

    def free_bytes(self, folder: Path) -> int | None:
        self.asked.add(folder)
        return self.free


def root_on(disk: OsFiles, tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"), files=disk)


# Reservations


def test_what_running_downloads_will_still_write_is_not_free(tmp_path: Path) -> None:
    disk = Disk(100 * MB)
    reservations = DiskReservations(root_on(disk, tmp_path), reserve_bytes=10 * MB)
    first, second = reservations.open(), reservations.open()
    first.resize(60 * MB)
    with pytest.raises(
        DiskTooSmallError, match=r"A video of 60\.0 MB does not fit .* 100\.0 MB are free, .* 60\.0 MB of it"
    ):
        second.resize(60 * MB)
    second.resize(30 * MB)
    disk.free, first.written = 40 * MB, 60 * MB  # what was written is not free any more, and not counted twice
    assert reservations.shortage() is None
    disk.free -= 1
    assert reservations.shortage() is not None
    reservations.close(second)
    assert reservations.shortage() is None


def test_the_reserve_is_set_aside_for_a_download_of_unknown_size(tmp_path: Path) -> None:
    reservations = DiskReservations(root_on(Disk(100 * MB), tmp_path), reserve_bytes=40 * MB)
    opened = []
    while reservations.shortage() is None:
        opened.append(reservations.open())
        opened[-1].resize(None)
    assert len(opened) == 2
    opened[0].written = 50 * MB  # more than was reserved: not less than nothing is still to come
    assert reservations.shortage() is None


def test_a_body_that_is_begun_anew_is_reserved_anew(tmp_path: Path) -> None:
    reservations = DiskReservations(root_on(Disk(100 * MB), tmp_path), reserve_bytes=0)
    reservation = reservations.open()
    reservation.resize(90 * MB)
    reservation.written = 90 * MB
    reservation.resize(95 * MB)
    with pytest.raises(DiskTooSmallError):
        reservations.open().resize(6 * MB)


def test_where_nobody_knows_what_is_free_everything_fits(tmp_path: Path) -> None:
    class Mute(OsFiles):
        def free_bytes(self, folder: Path) -> int | None:
            raise OSError(errno.ENOSYS, "not supported")

    for disk in (Disk(None), Mute()):
        reservations = DiskReservations(root_on(disk, tmp_path), MB)
        reservations.open().resize(1 << 60)
        assert reservations.shortage() is None


def test_the_real_disk_says_what_is_free_also_for_a_root_that_is_not_there_yet(tmp_path: Path) -> None:
    assert (StorageRoot(str(tmp_path / "not" / "there")).free_bytes() or 0) > 0


# Downloads


@pytest.mark.parametrize("remote", [False, True])
def test_nothing_is_asked_for_when_the_disk_of_the_temporary_files_is_full(
    remote: bool, server: VideoServer, tmp_path: Path, system_temporary_folder: Path
) -> None:
    disk, place = Disk(1000), tmp_path / "root"
    root = StorageRoot("s3://bucket/x" if remote else str(place), files=disk)
    fetch = Fetch(server, root)
    expected = system_temporary_folder if remote else place
    with pytest.raises(StorageFullError, match=rf"fit at {expected}: 0\.0 MB are free, .* 67\.1 MB are to stay free"):
        fetch(*(requested(f"job{number}", server.serve("/a", render_video())) for number in range(20)))
    assert disk.asked == {expected}
    assert (server.requests, fetch.outcomes) == ([], {})


def test_a_video_that_does_not_fit_is_passed_over_and_the_others_are_stored(
    server: VideoServer, tmp_path: Path
) -> None:
    body = render_video()
    root = root_on(Disk(100 * MB), tmp_path)
    fetch = Fetch(server, root)
    large = server.serve("/large", body, length=200 * MB)
    requests = [requested("large", large, expires_at_ms=1)]
    requests += [requested(f"good{number}", server.serve("/good", body)) for number in range(5)]
    with pytest.raises(StorageFullError, match=r"A video of 200\.0 MB does not fit at .*/root: 100\.0 MB are free"):
        fetch(*requests, threads=1, reserve_bytes=MB)
    assert fetch.stored_so_far("good") == len(fetch.outcomes) == 5
    assert files_below(root) == [f"{FOLDER}/good{number}.mp4" for number in range(5)]


def test_with_space_for_one_at_a_time_one_at_a_time_is_fetched(server: VideoServer, tmp_path: Path) -> None:
    fetch = Fetch(server, root_on(Disk(100 * MB), tmp_path))
    url = server.serve("/good", render_video())
    assert fetch(*(requested(f"job{number}", url) for number in range(5)), reserve_bytes=60 * MB).stored == 5
    assert server.connections == 1


class FullAfter(OsFiles):
    """Lets so many files be opened for writing; the next file meets a full disk where told to."""

    def __init__(self, files: int, error: int, at: str) -> None:
        self._left = files
        self._error = error
        self._at = at

    def _meet(self, call: str, path: Path) -> None:
        if self._at == call and path.name.endswith(".partial"):
            self._left -= 1
            if self._left < 0:
                raise OSError(self._error, os.strerror(self._error))

    def open(self, path: Path, mode: str) -> BinaryIO:
        self._meet("open", path)
        return super().open(path, mode)

    def fsync(self, path: Path) -> None:
        self._meet("fsync", path)
        super().fsync(path)


@pytest.mark.parametrize(("at", "error"), [("open", errno.ENOSPC), ("fsync", errno.EDQUOT)])
def test_a_disk_that_fills_up_ends_the_fetch_and_keeps_what_was_stored(
    at: str, error: int, server: VideoServer, tmp_path: Path
) -> None:
    root = root_on(FullAfter(3, error, at), tmp_path)
    fetch = Fetch(server, root)
    url = server.serve("/good", render_video())
    with pytest.raises(StorageFullError) as caught:
        fetch(*(requested(f"job{number}", url, expires_at_ms=number) for number in range(20)), threads=1)
    assert f"{root.uri()}/{FOLDER}" in str(caught.value)
    assert f"{os.strerror(error)}" in str(caught.value)
    assert "MB are free) The video has" in str(caught.value)
    assert list(fetch.outcomes) == ["job0", "job1", "job2"]
    assert files_below(root) == [f"{FOLDER}/job{number}.mp4" for number in range(3)]
    assert server.count("/good") == 4  # nothing more was asked for


def test_what_runs_when_the_disk_fills_up_is_finished(server: VideoServer, tmp_path: Path) -> None:
    hold = threading.Event()

    class FullForOne(OsFiles):
        def open(self, path: Path, mode: str) -> BinaryIO:
            if path.name.startswith(".full"):
                server.sending.wait(10)  # the other download is in the middle of its body
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().open(path, mode)

        def free_bytes(self, folder: Path) -> int | None:
            if server.sending.is_set() and server.count("/full") == 1:
                hold.set()
            return None

    fetch = Fetch(server, root_on(FullForOne(), tmp_path))
    server.answers["/slow"] = Answer(body=render_video(), hold=hold)
    heard: list[Outcome] = []
    with pytest.raises(StorageFullError):
        fetch(
            requested("slow", server.url("/slow"), expires_at_ms=1),
            requested("full", server.serve("/full", render_video()), expires_at_ms=2),
            requested("late", server.serve("/late", render_video()), expires_at_ms=3),
            threads=2,
            on_outcome=heard.append,
        )
    assert not server.gave_up
    assert [outcome.job_id for outcome in heard] == ["slow"]
    assert server.count("/late") == 0
