"""Landings of videos: what is stored and recorded, how a failure goes on, and what ends a landing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from akool_dagster.api import AkoolClient
from akool_dagster.http.bounds import LowSpeedLimit
from akool_dagster.ledger import JobState, LeaseLostError, VideoState
from akool_dagster.videos.landing import VideoLandingReport
from akool_dagster.videos.store import ATTEMPTS_FOR_URL
from tests.clock import FakeClock
from tests.integration.videos.landings import DAY, IDS, Landing, WallClock, path_of
from tests.scripted_api import FIRST_SECOND, job_id

# What goes well


def test_due_videos_are_stored_byte_for_byte_and_recorded(land: Landing) -> None:
    land.poll()
    report = land()

    served = {path_of(identifier): land.emulator.video_bytes(identifier) for identifier in IDS}
    assert land.files == served
    assert report == VideoLandingReport(stored=4, bytes=sum(map(len, served.values())))
    requests = land.emulator.journal.requests
    assert {(request.endpoint, request.auth_headers) for request in requests} == {("cdn", ())}
    assert land.log[0] == "4 videos are due."
    for identifier, job in land.jobs.items():
        assert (job.video_state, job.video_attempts, job.video_error) == (VideoState.STORED, 1, None)
        record = json.loads(job.video_record or "")
        content = served[path_of(identifier)]
        assert record["path"] == path_of(identifier)
        assert (record["bytes"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert record["downloaded_at"] == land.clock.now_ms()
        emulated = land.emulator.jobs[identifier]
        assert (record["width"], record["height"]) == emulated.picture_size
        assert record["probed_duration"] == pytest.approx(emulated.video_duration, abs=0.1)
        assert (record["audio_codec"] is not None) == emulated.has_audio
    rows = land.manifest()
    assert {name for name in rows[0] if all(row[name] is None for row in rows)} == {"error"}
    record = json.loads(land.jobs[IDS[1]].video_record or "")
    assert {**record, "downloaded_at": None} == {name: rows[1][name] for name in record} | {"downloaded_at": None}


def test_nothing_due_means_nothing_done(land: Landing) -> None:
    assert land() == VideoLandingReport()
    land.poll()
    land()
    land.emulator.journal.clear()
    assert land() == VideoLandingReport()
    assert land.emulator.journal.requests == ()


def test_only_videos_of_the_asked_span_of_time_are_taken(land: Landing) -> None:
    land.poll()
    moment = FIRST_SECOND * 1000
    assert land(moment + 1).stored == 0
    assert land(moment - 5, moment).stored == 0
    assert land(None, moment).stored == 0
    assert land(moment, moment + 1).stored == 4


# An address that is over


def test_a_new_address_is_used_and_kept_and_nothing_else_of_the_row_changes(land: Landing) -> None:
    land.complete(IDS[0], f"{land.emulator.base_url}/cdn/an-old-address.mp4", deduction_credit=77, prompt="as it was")
    before = land.jobs[IDS[0]]
    assert land().stored == 1
    after = land.jobs[IDS[0]]
    payload = json.loads(after.payload or "")
    assert (payload["deduction_credit"], payload["prompt"]) == (77, "as it was")
    assert payload["video_url"].startswith(f"{land.emulator.base_url}/cdn/1")
    assert land.files == {path_of(IDS[0]): land.emulator.video_bytes(IDS[0])}
    assert after.version > before.version


@pytest.mark.parametrize("in_vain", [0, 1, 3])
def test_a_video_that_a_killed_run_published_without_a_known_url_gets_the_url_into_its_row(
    land: Landing, in_vain: int
) -> None:
    land.complete(IDS[0], None)
    published = Path(land.root.uri(path_of(IDS[0])))
    published.parent.mkdir(parents=True)
    published.write_bytes(land.emulator.video_bytes(IDS[0]))
    if in_vain:
        land.emulator.faults.add("no_video_url", times=in_vain)
    for _ in range(in_vain):
        report = land()
        assert (report.stored, report.failed) == (0, 1)
        assert "its URL is not known yet" in str(land.jobs[IDS[0]].video_error)
        land.clock.advance(3600)
    assert land().stored == 1
    assert {request.endpoint for request in land.emulator.journal.requests} == {"resultsByIds"}
    assert json.loads(land.jobs[IDS[0]].payload or "")["video_url"].startswith(f"{land.emulator.base_url}/cdn/1")


def test_a_video_that_is_there_is_stored_in_the_end_though_akool_never_gives_its_url(land: Landing) -> None:
    land.complete(IDS[0], None)
    published = Path(land.root.uri(path_of(IDS[0])))
    published.parent.mkdir(parents=True)
    published.write_bytes(land.emulator.video_bytes(IDS[0]))
    land.emulator.faults.add("no_video_url")
    while not land().stored:
        land.clock.advance(3600)
    assert land.jobs[IDS[0]].video_attempts == ATTEMPTS_FOR_URL + 1
    assert land.files == {path_of(IDS[0]): land.emulator.video_bytes(IDS[0])}


def test_expired_addresses_are_asked_for_by_one_client_which_is_closed(
    land: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[AkoolClient] = []
    close = AkoolClient.close

    def closing(client: AkoolClient) -> None:
        closed.append(client)
        close(client)

    monkeypatch.setattr(AkoolClient, "close", closing)
    land.poll()
    closed.clear()
    land.emulator.faults.add("expired_url", times=1)
    land.emulator.faults.add("expired_url", job_id=IDS[3])
    report = land()
    assert (report.stored, report.failed) == (3, 1)
    assert report.api_calls == len(land.emulator.journal.calls("resultsByIds")) > 0
    assert len(land.clients) == 1
    assert closed == land.clients
    assert any(f"Video {IDS[3]}, attempt 1: " in line and "403" in line for line in land.log)
    assert not any("emulator-key" in line for line in land.log)


# Failures


def test_a_failed_download_is_tried_again_with_growing_waits(land: Landing) -> None:
    land.poll(IDS[:1])
    land.emulator.faults.add("expired_url")
    waits = []
    for attempt in range(1, 4):
        report = land()
        assert (report.stored, report.failed, report.lost) == (0, 1, 0)
        job = land.jobs[IDS[0]]
        assert (job.video_state, job.video_attempts) == (VideoState.PENDING, attempt)
        assert "403" in (job.video_error or "")
        wait = ((job.video_next_at or 0) - land.clock.now_ms()) / 1000
        waits.append(wait)
        land.clock.advance(wait - 0.001)
        assert land() == VideoLandingReport()  # not due a moment earlier
        land.clock.advance(0.001)
    assert waits == [30, 60, 120]
    land.emulator.faults.clear()
    assert land().stored == 1
    assert land.jobs[IDS[0]].video_error is None


def test_a_video_is_lost_only_when_its_time_is_over_and_it_was_tried(land: Landing) -> None:
    land.poll(IDS[:1])
    expires_at = land.jobs[IDS[0]].video_expires_at
    assert expires_at is not None
    land.emulator.faults.add("expired_url")
    land.clock.advance((expires_at - 1 - land.clock.now_ms()) / 1000)
    assert land().lost == 0
    land.clock.advance(3600)
    report = land.until_lost(IDS[0])
    assert (report.failed, report.lost) == (1, 1)
    job = land.jobs[IDS[0]]
    assert (job.state, job.video_state, job.video_next_at) == (JobState.COMPLETED, VideoState.LOST, None)
    assert "The video is lost." in land.log[-1]
    (row,) = land.manifest()
    assert row["video_state"] == VideoState.LOST
    assert row["error"].startswith("127.0.0.1 answered HTTP 403. Akool gives the same URL again. Its 7 days ended on ")
    assert land() == VideoLandingReport()


def test_a_video_past_its_time_that_can_still_be_had_is_stored(land: Landing) -> None:
    land.poll(IDS[:1])
    land.clock.advance(30 * DAY)
    assert land().stored == 1


def test_bad_videos_never_stop_the_others(land: Landing) -> None:
    land.poll()
    strange = [job_id(number) for number in range(100, 104)]
    land.complete(strange[0], "https://10.0.0.1/private.mp4")
    land.complete(strange[1], "http://cdn.example/not-https.mp4")
    land.complete(strange[2], f"{land.emulator.base_url}/cdn/nobody-knows.mp4")
    land.complete(strange[3], "nonsense")
    land.emulator.faults.add("short_body", job_id=IDS[0], times=1)

    report = land()

    assert (report.stored, report.failed, report.lost) == (3, 5, 0)
    found = land.jobs
    assert [found[one].video_state for one in IDS] == ["pending", "stored", "stored", "stored"]
    assert set(land.files) == {path_of(one) for one in IDS[1:]}
    errors = [found[one].video_error or "" for one in strange]
    assert all(part in error for part, error in zip(["not a public", "not https", "404", "URL"], errors, strict=True))
    waits = [((found[one].video_next_at or 0) - land.clock.now_ms()) / 1000 for one in (IDS[0], *strange)]
    assert waits == [30, 3600, 3600, 30, 30]  # what only a change of configuration can mend waits an hour


def test_videos_that_no_time_was_left_for_stay_due(land: Landing) -> None:
    land.poll()
    report = land(run_seconds=0.0)
    assert report == VideoLandingReport()
    assert land.log[-1] == "The time for new downloads is over: the rest waits for the next run."
    assert {job.video_attempts for job in land.jobs.values()} == {0}
    assert land().stored == 4


# What ends the landing


def stop_at(call: int) -> Callable[[], None]:
    calls = iter(range(1, 100))

    def stop() -> None:
        if next(calls) >= call:
            raise LeaseLostError("The lease ran out.")

    return stop


@pytest.mark.parametrize("checks", [0, 1, 2, 6])
def test_a_lost_lease_stops_the_landing_and_shows_and_records_nothing_more(land: Landing, checks: int) -> None:
    land.poll()
    land.before_effect = stop_at(checks + 1)
    with pytest.raises(LeaseLostError):
        land(threads=1)
    shown, recorded = (checks + 1) // 2, checks // 2  # each is looked at before it is shown, and before it is recorded
    assert len(land.files) == shown
    assert sorted(job.video_attempts for job in land.jobs.values()) == [0] * (4 - recorded) + [1] * recorded
    land.before_effect = lambda: None
    assert land().stored == 4 - recorded  # and the next run takes up what is left


class HurryingClock(WallClock):
    """Six seconds pass whenever somebody asks."""

    def __init__(self, wall: FakeClock) -> None:
        super().__init__(wall)
        self._seconds = 0.0

    def monotonic(self) -> float:
        self._seconds += 6.0
        return self._seconds


def test_the_lease_is_looked_at_all_the_while(land: Landing) -> None:
    land.poll()
    land.threads_clock = HurryingClock(land.clock)
    checks = 0

    def count() -> None:
        nonlocal checks
        checks += 1

    land.before_effect = count
    low_speed = LowSpeedLimit(seconds=1e9)
    assert land(run_seconds=1e9, seconds_per_file=1e9, low_speed=low_speed).stored == 4
    lines = sum(" of 4 videos, " in line for line in land.log)
    assert lines > 0
    assert checks == 4 * 2 + lines
