"""The due videos of a stretch of time: from the ledger to verified files, each outcome recorded as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass

from akool_dagster.api.client import AkoolClient
from akool_dagster.api.models import is_usable_url, load_payload
from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.ledger import AccountLedger, JobForgottenError, LeaseLostError, VideoState
from akool_dagster.ledger.records import DueVideo, VideoFailure
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.fairness import GIVE_UP_AFTER
from akool_dagster.videos.fetch import FetchLimits, Progress, fetch_videos
from akool_dagster.videos.leftovers import remove_leftovers
from akool_dagster.videos.refresh import AkoolSays, UrlRefresher
from akool_dagster.videos.schedule import Failure, decide_fate, next_attempt_ms
from akool_dagster.videos.store import FailedVideo, Outcome, StoredVideo, VideoRequest, day_of

FILE_ENDINGS = (".mp4", ".unverified", ".webp")
"""What there may be of one job's video: the verified file, one that the verifier refused, and a poster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLandingReport:
    """What one landing of videos did."""

    stored: int = 0
    failed: int = 0
    """Attempts that did not end with a verified file, the next two included."""
    unverified: int = 0
    lost: int = 0
    bytes: int = 0
    api_calls: int = 0
    deferred: int = 0
    """Not begun, and no attempt counted, because their host was in trouble."""


class VideoLanding:
    """Downloads what is due and records every outcome in the ledger."""

    def __init__(
        self,
        account: AccountLedger,
        *,
        new_client: Callable[[], AkoolClient],
        root: StorageRoot,
        policy: AddressPolicy,
        clock: Clock,
        log: Callable[[str], None],
        before_effect: Callable[[], None],
    ) -> None:
        """Take the parts. ``new_client`` is called when a URL must be asked for again, and only then.

        ``before_effect`` runs before each record, with each line of progress and, in the workers, before each file
        is shown; it raises when the work must stop (a lost lease).
        """
        self._account = account
        self._folder = f"{account.name}/videos"
        self._refresher = UrlRefresher(new_client, clock)
        self._root = root
        self._policy = policy
        self._clock = clock
        self._log = log
        self._before_effect = before_effect
        self._given_up: Counter[VideoState] = Counter()
        self._due: dict[str, DueVideo] = {}

    def land(self, start: int | None, end: int, *, run_seconds: float, limits: FetchLimits) -> VideoLandingReport:
        """Fetch the due videos of jobs with ``start <= partition_at < end``; what killed runs left is removed first.

        Raises `StorageError` when the storage root cannot be used or is full; what was recorded until then stays.
        """
        due = self._account.videos.due(start, end)
        days = {day_of(min(end - 1, self._clock.now_ms())), *(day_of(video.partition_at) for video in due)}
        if removed := remove_leftovers(self._root, self._folder, days, self._clock):
            self._log(f"Temporary files of killed runs that were removed: {removed}.")
        if not due:
            return VideoLandingReport()
        self._due = {video.job_id: video for video in due}
        self._log(f"{len(due)} videos are due.")
        with closing(self._refresher), self._without_forgotten():
            summary = fetch_videos(
                [_request(video) for video in due],
                root=self._root,
                folder=self._folder,
                policy=self._policy,
                time_budget=Deadline(self._clock, run_seconds),
                refresh=self._refresher.ask,
                on_outcome=self._record,
                clock=self._clock,
                limits=limits,
                before_publish=self._before_effect,
                progress=self._show,
            )
        for host, number in summary.deferred.items():
            self._log(f"{host} failed {GIVE_UP_AFTER} times in a row. Its videos that wait for the next run: {number}.")
        if summary.out_of_time:
            self._log("The time for new downloads is over: the rest waits for the next run.")
        return VideoLandingReport(
            stored=summary.stored,
            failed=summary.failed,
            unverified=self._given_up[VideoState.UNVERIFIED],
            lost=self._given_up[VideoState.LOST],
            bytes=summary.bytes,
            api_calls=self._refresher.calls,
            deferred=sum(summary.deferred.values()),
        )

    @contextmanager
    def _without_forgotten(self) -> Iterator[None]:
        """Remove the files of forgotten jobs that were published while the lease was lost."""
        try:
            yield
        except LeaseLostError:
            for job_id in self._due.keys() & self._account.landings.forgotten():
                remove_video(self._root, self._folder, job_id, self._due[job_id].partition_at)
            raise

    def _show(self, progress: Progress) -> None:
        self._before_effect()
        self._log(progress_line(progress))

    def _record(self, outcome: Outcome) -> None:
        self._before_effect()
        expires_at = self._keep_newer_url(outcome)
        try:
            match outcome:
                case StoredVideo():
                    self._account.videos.store(outcome.job_id, manifest_record(outcome))
                case FailedVideo():
                    self._record_failure(outcome, expires_at)
        except JobForgottenError as error:
            remove_video(self._root, self._folder, outcome.job_id, self._due[outcome.job_id].partition_at)
            self._log(str(error))

    def _keep_newer_url(self, outcome: Outcome) -> int:
        """Keep a newer URL that Akool gave, but for one that proved to be of no use; return when the URL dies."""
        video, refreshed = self._due[outcome.job_id], outcome.refreshed
        useless = isinstance(outcome, FailedVideo) and outcome.failure is Failure.LASTING
        if refreshed is None or refreshed.url is None or refreshed.expires_at_ms is None or useless:
            return video.expires_at
        # Only a newer URL lives longer: a row without times would otherwise put off the end of the old one for ever.
        if refreshed.says is not AkoolSays.NEW_URL:
            return video.expires_at
        expires_at = max(video.expires_at, refreshed.expires_at_ms)
        is_first = not _request(video).source_url
        self._account.videos.keep_url(outcome.job_id, refreshed.url, expires_at, is_first=is_first)
        return expires_at

    def _record_failure(self, failed: FailedVideo, expires_at: int) -> None:
        now, due = self._clock.now_ms(), self._due[failed.job_id]
        attempts = due.attempts + failed.counts
        state, reason = VideoState.PENDING, ""
        if failed.counts:
            state, reason = decide_fate(
                failed.failure,
                AkoolSays.NOTHING if failed.refreshed is None else failed.refreshed.says,
                kept=failed.kept,
                refusals=due.refusals + failed.refused,
                now_ms=now,
                expires_at_ms=expires_at,
                attempts=attempts,
            )
        is_pending = state is VideoState.PENDING
        self._given_up[state] += not is_pending
        failure = VideoFailure(
            job_id=failed.job_id,
            error=f"{failed.error} {reason}".strip(),
            state=state,
            next_at=next_attempt_ms(max(attempts, 1), now, retryable=failed.retryable) if is_pending else None,
            refused=failed.refused,
            counts=failed.counts,
        )
        fate = "" if is_pending else f" The video is {state}."
        self._log(f"Video {failed.job_id}, attempt {attempts}: {failure.error}{fate}")
        self._account.videos.fail(failure)


def remove_video(root: StorageRoot, folder: str, job_id: str, partition_at: int) -> None:
    """Remove the files of a job that was forgotten while its download ended. Raises `StorageError`."""
    for ending in FILE_ENDINGS:
        root.remove(f"{folder}/{day_of(partition_at)}/{job_id}{ending}")


def _request(video: DueVideo) -> VideoRequest:
    payload = load_payload(video.payload)
    url = payload.get("video_url", "")
    return VideoRequest(
        job_id=video.job_id,
        source_url=url if is_usable_url(url) else "",  # without one Akool is asked
        expires_at_ms=video.expires_at,
        partition_at_ms=video.partition_at,
        attempts=video.attempts,
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
    size, pace = progress.bytes / 1e6, progress.rate_bytes_per_s / 1e6
    line = f"{progress.done} of {progress.total} videos, {size:.1f} MB, {pace:.1f} MB/s"
    if progress.remaining_seconds is None:
        return line
    return f"{line}, about {progress.remaining_seconds:.0f} s remaining"
