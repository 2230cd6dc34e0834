"""The due videos of a stretch of time: from the ledger to verified files, each outcome recorded as it comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from akool_dagster.api.client import AkoolClient
from akool_dagster.api.models import load_payload
from akool_dagster.clock import Clock, Deadline
from akool_dagster.ledger import JobLedger
from akool_dagster.ledger.records import DueVideo, VideoFailure
from akool_dagster.polling import observation_of
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.addresses import AddressPolicy
from akool_dagster.videos.fetch import Progress, fetch_videos
from akool_dagster.videos.schedule import is_lost, next_attempt_ms
from akool_dagster.videos.store import FailedVideo, Outcome, StoredVideo, VideoRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLandingReport:
    """What one landing of videos did."""

    stored: int = 0
    failed: int = 0
    lost: int = 0
    bytes: int = 0
    api_calls: int = 0
    left: bool = False
    """Whether the time was over before every due video was begun."""


class VideoLanding:
    """Downloads what is due and records every outcome in the ledger."""

    def __init__(
        self,
        ledger: JobLedger,
        account: str,
        *,
        new_client: Callable[[], AkoolClient],
        root: StorageRoot,
        policy: AddressPolicy,
        clock: Clock,
        log: Callable[[str], None],
        before_effect: Callable[[], None],
    ) -> None:
        """Take the parts. ``new_client`` is called when a URL must be asked for again, and only then.

        ``before_effect`` runs before each record and raises when the work must stop (a lost lease).
        """
        self._ledger = ledger
        self._account = account
        self._new_client = new_client
        self._root = root
        self._policy = policy
        self._clock = clock
        self._log = log
        self._before_effect = before_effect
        self._lost = 0
        self._due: dict[str, DueVideo] = {}
        self._client: AkoolClient | None = None

    def land(
        self,
        start: int | None,
        end: int,
        *,
        threads: int,
        run_seconds: float,
        seconds_per_file: float,
        max_bytes: int,
    ) -> VideoLandingReport:
        """Fetch the due videos of jobs with ``start <= partition_at < end``.

        Raises `StorageError` when the storage root cannot be used; what was recorded until then stays.
        """
        due = self._ledger.due_videos(self._account, start, end)
        if not due:
            return VideoLandingReport()
        self._due = {video.job_id: video for video in due}
        self._log(f"{len(due)} videos are due.")
        with ExitStack() as stack:
            stack.callback(self._close_client)
            summary = fetch_videos(
                [_request(video) for video in due],
                root=self._root,
                folder=f"{self._account}/videos",
                policy=self._policy,
                time_budget=Deadline(self._clock, run_seconds),
                refresh_url=self._refreshed_url,
                on_outcome=self._record,
                clock=self._clock,
                progress=lambda progress: self._log(progress_line(progress)),
                threads=threads,
                seconds_per_file=seconds_per_file,
                max_bytes=max_bytes,
            )
            api_calls = 0 if self._client is None else self._client.calls
        return VideoLandingReport(
            stored=summary.stored,
            failed=summary.failed,
            lost=self._lost,
            bytes=summary.bytes,
            api_calls=api_calls,
            left=summary.out_of_time,
        )

    def _record(self, outcome: Outcome) -> None:
        self._before_effect()
        match outcome:
            case StoredVideo():
                self._ledger.store_video(self._account, outcome.job_id, manifest_record(outcome))
            case FailedVideo():
                self._record_failure(outcome)

    def _record_failure(self, failed: FailedVideo) -> None:
        video = self._due[failed.job_id]
        now = self._clock.now_ms()
        attempts = video.attempts + 1
        if is_lost(now, video.expires_at, attempts):
            self._lost += 1
            next_at = None
        else:
            next_at = next_attempt_ms(attempts, now, retryable=failed.retryable)
        self._log(
            f"Video {failed.job_id}, attempt {attempts}: {failed.error}" + (" It is lost." if not next_at else "")
        )
        self._ledger.fail_video(self._account, VideoFailure(job_id=failed.job_id, error=failed.error, next_at=next_at))

    def _refreshed_url(self, job_id: str) -> str | None:
        """Ask Akool for the job's row again and keep it; return its URL. Called by one worker thread at a time."""
        if self._client is None:
            self._client = self._new_client()
        row = self._client.results([job_id]).rows.get(job_id)
        if row is None or not row.has_usable_video_url:
            return None
        self._before_effect()
        self._ledger.refresh_payload(self._account, observation_of(row, self._clock.now_ms()))
        return row.video_url

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()


def _request(video: DueVideo) -> VideoRequest:
    payload = load_payload(video.payload)
    return VideoRequest(
        job_id=video.job_id,
        source_url=payload.get("video_url", ""),
        expires_at_ms=video.expires_at,
        partition_at_ms=video.partition_at,
        attempts=video.attempts,
        reported_duration=payload.get("video_duration"),
    )


def manifest_record(stored: StoredVideo) -> dict[str, object]:
    """Return what the ledger keeps of a stored file: the manifest's columns, times in epoch milliseconds."""
    return {
        "path": stored.path,
        "bytes": stored.bytes,
        "sha256": stored.sha256,
        "downloaded_at": stored.downloaded_at_ms,
        **asdict(stored.facts),
    }


def progress_line(progress: Progress) -> str:
    """Return a fetch's progress as one line for people."""
    total = "?" if progress.total is None else str(progress.total)
    line = (
        f"{progress.done} of {total} videos, {progress.bytes / 1e6:.1f} MB, {progress.rate_bytes_per_s / 1e6:.1f} MB/s"
    )
    if progress.remaining_seconds is None:
        return line
    return f"{line}, about {progress.remaining_seconds:.0f} s remaining"
