"""When a video is lost, when it is not, and what never counts as an attempt."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from akool_dagster.ledger import TrackRequest, VideoState
from akool_dagster.storage import STALE_SECONDS, OsFiles, StorageFullError, StorageRoot
from akool_dagster.videos.landing import VideoLandingReport
from akool_dagster.videos.refresh import MOST_FAILURES
from akool_dagster.videos.schedule import FINAL_ATTEMPTS
from tests.integration.videos.landings import DAY, FAILED_JOB, IDS, PRIVATE_JOB, Landing
from tests.scripted_api import job_id


def after_its_time(land: Landing, identifier: str = IDS[0]) -> None:
    """Let the clock stand where the video's URL has just died."""
    land.clock.advance(((land.jobs[identifier].video_expires_at or 0) - land.clock.now_ms()) / 1000)


def until_due(land: Landing, identifier: str) -> None:
    land.clock.advance(((land.jobs[identifier].video_next_at or 0) - land.clock.now_ms()) / 1000)


# Lost


def test_what_cdn_and_akool_deny_for_hours_is_lost_before_its_time(land: Landing) -> None:
    identifier = FAILED_JOB.job_id
    land.complete(identifier, f"{land.emulator.base_url}/cdn/nobody-knows.mp4")
    for attempt in range(1, FINAL_ATTEMPTS):
        assert land().lost == 0
        assert land.jobs[identifier].video_attempts == attempt
        until_due(land, identifier)
    assert land().lost == 1
    job = land.jobs[identifier]
    assert job.video_state == VideoState.LOST
    assert job.video_error == (
        "127.0.0.1 answered HTTP 404. Akool says now that the job failed. Both say that there is no video."
    )
    assert land.clock.now_ms() < (job.video_expires_at or 0) - 6 * DAY * 1000


# Not lost


def test_a_dead_url_is_not_given_up_while_akool_cannot_be_asked(land: Landing) -> None:
    land.poll(IDS[:1])
    land.emulator.faults.add("expired_url")
    land.emulator.faults.add("502", endpoint="resultsByIds")
    after_its_time(land)
    for _ in range(5):
        assert (land().lost, land.jobs[IDS[0]].video_state) == (0, VideoState.PENDING)
        until_due(land, IDS[0])
    land.emulator.faults.clear()
    assert land().stored == 1


def test_a_newer_url_has_its_own_seven_days(land: Landing) -> None:
    land.complete(IDS[0], f"{land.emulator.base_url}/cdn/an-old-address.mp4", lives=1.0)
    land.emulator.faults.add("expired_url", job_id=IDS[0])
    land.clock.advance(2.0)
    assert land().lost == 0
    job = land.jobs[IDS[0]]
    assert (job.video_expires_at or 0) > land.clock.now_ms() + 6 * DAY * 1000
    assert json.loads(job.payload or "")["video_url"].startswith(f"{land.emulator.base_url}/cdn/1")


def test_the_same_url_in_a_newer_row_lives_no_longer(land: Landing) -> None:
    with land.new_client() as client:
        url = client.results(IDS[:1]).rows[IDS[0]].video_url or ""
    land.complete(IDS[0], url, lives=1.0)
    before = land.jobs[IDS[0]]
    land.emulator.faults.add("expired_url")
    land.clock.advance(2.0)
    assert land.until_lost(IDS[0]).lost == 1
    after = land.jobs[IDS[0]]
    assert after.payload == before.payload
    assert after.video_expires_at == before.video_expires_at


@pytest.mark.parametrize("unusable", [None, "/videos/1.mp4"])
def test_a_video_without_a_usable_url_is_asked_for_until_it_has_one(land: Landing, unusable: str | None) -> None:
    land.complete(IDS[0], unusable)
    (asked,) = land.account.landings.dirty(DAY * 1000, ["results"], videos=False)
    land.emulator.faults.add("no_video_url", times=3)
    for _ in range(3):
        assert (land().lost, land.jobs[IDS[0]].video_state) == (0, VideoState.PENDING)
        assert land.jobs[IDS[0]].video_error == "Its URL is not known. Akool gives no URL for it any more."
        until_due(land, IDS[0])
    assert land().stored == 1
    (asked_now,) = land.account.landings.dirty(DAY * 1000, ["results"], videos=False)
    assert asked_now.tables_version > asked.tables_version  # its row shows none


def test_a_newer_url_that_must_not_be_fetched_is_not_kept(land: Landing) -> None:
    identifier = PRIVATE_JOB.job_id
    land.complete(identifier, f"{land.emulator.base_url}/cdn/an-old-address.mp4")
    before = land.jobs[identifier].payload
    assert land().failed == 1
    job = land.jobs[identifier]
    assert "10.0.0.1 is refused" in (job.video_error or "")
    assert job.payload == before  # so that the next attempt asks Akool again


def test_a_lost_video_that_is_tracked_again_is_tried_once_more(land: Landing) -> None:
    land.poll(IDS[:1])
    land.emulator.faults.add("expired_url")
    after_its_time(land)
    land.until_lost(IDS[0])
    attempts = land.jobs[IDS[0]].video_attempts
    again = [TrackRequest(job_id=IDS[0])]
    assert land.account.track(again, again=True).reopened == 1
    assert land().lost == 1  # once more, and no longer
    land.account.track(again, again=True)
    land.emulator.faults.clear()
    assert land().stored == 1
    assert land.jobs[IDS[0]].video_attempts == attempts + 2


# No attempt


def test_videos_that_are_deferred_for_their_host_s_sake_have_no_attempt(land: Landing) -> None:
    for number in range(200, 212):
        land.complete(job_id(number), f"{land.emulator.base_url}/cdn/{number}.mp4")
    land.emulator.faults.add("502", endpoint="cdn")
    report = land(threads=1)
    assert (report.failed, report.deferred) == (5, 7)
    assert sorted(job.video_attempts for job in land.jobs.values()) == [0] * 7 + [1] * 5
    assert land.log[-1] == "127.0.0.1 failed 5 times in a row. Its videos that wait for the next run: 7."
    assert land(threads=1).failed == 5  # the next run tries those that have not been tried


def test_an_akool_that_is_down_is_not_asked_for_every_video(land: Landing) -> None:
    for number in range(200, 212):
        land.complete(job_id(number), f"{land.emulator.base_url}/cdn/{number}.mp4")
    land.emulator.faults.add("502", endpoint="resultsByIds")
    report = land()
    assert report.failed == 12
    assert report.api_calls == MOST_FAILURES * 4
    errors = [job.video_error or "" for job in land.jobs.values()]
    assert sum("it failed 3 times in this run." in error for error in errors) == 12 - MOST_FAILURES


class FullAfter(OsFiles):
    def __init__(self, files: int) -> None:
        self.left = files

    def open(self, path: Path, mode: str) -> BinaryIO:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().open(path, mode)


def test_a_full_disk_is_no_attempt_loses_nothing_and_keeps_what_was_stored(land: Landing, tmp_path: Path) -> None:
    land.poll()
    land.clock.advance(30 * DAY)
    good, land.root = land.root, StorageRoot(str(tmp_path / "root"), files=FullAfter(2))
    with pytest.raises(StorageFullError, match="No space left on device"):
        land(threads=1)
    states = [(job.video_state, job.video_attempts, job.video_error) for job in land.jobs.values()]
    assert states.count((VideoState.STORED, 1, None)) == 2
    assert states.count((VideoState.PENDING, 0, None)) == 2
    assert len(land.files) == 2
    land.root = good
    assert land().stored == 2


# Leftovers


def test_a_run_removes_what_killed_ones_left_also_where_nothing_is_due(land: Landing) -> None:
    left = Path(land.root.uri(f"akool/videos/2025-09-01/.{IDS[0]}.mp4.1.partial"))
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    written_at = land.clock.now_ms() / 1000 - STALE_SECONDS - 1
    os.utime(left, (written_at, written_at))
    assert land() == VideoLandingReport()
    assert land.files == {}
    assert land.log == ["Temporary files of killed runs that were removed: 1."]
