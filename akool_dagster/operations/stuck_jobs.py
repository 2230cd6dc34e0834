"""Which jobs and videos wait too long, or for somebody, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from akool_dagster.base.accounts import shown_command
from akool_dagster.base.clock import Clock
from akool_dagster.ledger import AccountLedger
from akool_dagster.ledger.account import OVERDUE_MS
from akool_dagster.ledger.inspection import Concern, JobGroup
from akool_dagster.ledger.landings import VIDEOS
from akool_dagster.ledger.records import Job
from akool_dagster.ledger.schema import HOUR_MS
from akool_dagster.operations.findings import Finding, Level, named

EXPIRY_MS = 86_400_000
"""A video counts as close to the end of its URL this long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """How a group of jobs is reported: ``{account}`` and the command ``{again}`` are filled in."""

    about: str
    what: str
    hint: str
    level: Level
    why: Callable[[Job], str | None] = lambda job: job.last_error


AGAIN = "If they should still end: {again} polls them anew."

WORDS = {
    Concern.UNUSABLE_ANSWER: _Words(
        about="polling",
        what="pending jobs had a last answer that could not be used",
        hint="They are looked at again. If it goes on, please report it.",
        level=Level.PROBLEM,
    ),
    Concern.NOT_RETURNED: _Words(
        about="polling",
        what="pending jobs were not returned, or refused, when last asked for",
        hint="They are asked for again; after five polls and ten minutes they count as missing.",
        level=Level.NOTICE,
    ),
    Concern.PARTED: _Words(
        about="polling",
        what="pending jobs are polled alone, since calls with them failed",
        hint="Is the id right, and of this account?",
        level=Level.NOTICE,
    ),
    Concern.MISSING: _Words(
        about="polling", what="jobs are missing: Akool stopped returning them", hint=AGAIN, level=Level.NOTICE
    ),
    Concern.ABANDONED: _Words(
        about="polling", what="jobs are abandoned: no end came within seven days", hint=AGAIN, level=Level.NOTICE
    ),
    Concern.EXPIRING_VIDEO: _Words(
        about="videos",
        what="videos are not stored, and their URLs die within a day or have died",
        hint="Mend what the errors say, soon. Without one: do the runs of {account}_land_videos start and succeed?",
        level=Level.PROBLEM,
        why=lambda job: job.video_error,
    ),
    Concern.UNVERIFIED_VIDEO: _Words(
        about="videos",
        what="videos were refused by the verifier; what Akool served is kept beside the videos as <_id>.unverified",
        hint="If the files play, or after an upgrade of this package: {again} verifies them.",
        level=Level.NOTICE,
        why=lambda job: job.video_error,
    ),
    Concern.LOST_VIDEO: _Words(
        about="videos",
        what="videos are lost: no bytes could be had before their URLs died",
        hint="If a file may still be there: {again} tries once more. Else make it anew.",
        level=Level.NOTICE,
        why=lambda job: job.video_error,
    ),
    Concern.AHEAD: _Words(
        about="clock",
        what="jobs lie more than a day ahead: they were tracked under a clock that was wrong",
        hint="Is this machine's clock right? Their videos are stored as usual; their rows land when that day comes.",
        level=Level.NOTICE,
        why=lambda _job: None,
    ),
}


def stuck_jobs(account: AccountLedger, clock: Clock) -> Iterator[Finding]:
    """Yield a finding for each group of jobs that waits too long, or for somebody."""
    now = clock.now_ms()
    again = shown_command("track ID --again", account.name)
    groups = account.inspection.groups(now, OVERDUE_MS, EXPIRY_MS)
    yield from _paused(account, now)
    enabled = account.landings.enabled_assets()
    lands_videos = not enabled or VIDEOS in enabled
    if not lands_videos:  # nobody wants them: only what is due is told, once
        groups.pop(Concern.EXPIRING_VIDEO, None)
    if Concern.OVERDUE_POLL in groups:
        yield _overdue_polls(account, groups[Concern.OVERDUE_POLL], now)
    if Concern.OVERDUE_VIDEO in groups:
        yield _overdue_videos(account.name, groups[Concern.OVERDUE_VIDEO], lands_videos)
    for concern, words in WORDS.items():
        if concern in groups:
            yield Finding(
                about=words.about,
                what=f"{groups[concern].number} {words.what}: {_examples(groups[concern], words.why)}.",
                hint=words.hint.format(account=account.name, again=again),
                level=words.level,
            )


def _paused(account: AccountLedger, now: int) -> Iterator[Finding]:
    until = account.polling.not_before()
    if until > now:
        yield Finding(
            about="polling",
            what=f"Akool asked not to be called for another {(until - now) / 60_000:.0f} minutes.",
            hint="Nothing: polling goes on by itself then.",
            level=Level.NOTICE,
        )


def _overdue_polls(account: AccountLedger, group: JobGroup, now: int) -> Finding:
    last = account.inspection.last_poll_at()
    what = f"{group.number} polls are overdue by more than ten minutes: {_examples(group, lambda job: job.last_error)}."
    if last is not None and now - last < OVERDUE_MS:
        return Finding(
            about="polling",
            what=f"{what} Others are polled: more is due than the ticks can ask for, or Akool fails for some.",
            hint="See what the ticks say; a higher ids_per_request or a shorter minimum_interval_seconds polls more.",
        )
    ago = "never" if last is None else f"{(now - last) / HOUR_MS:.1f} hours ago"
    return Finding(
        about="polling",
        what=f"{what} The last answer was recorded {ago}.",
        hint=f"Is the daemon running and the sensor {account.name}_poll_results switched on? If so, its ticks say why.",
    )


def _overdue_videos(account: str, group: JobGroup, lands: bool) -> Finding:
    what = f"{group.number} videos are overdue by more than ten minutes"
    return Finding(
        about="videos",
        what=f"{what}: {_examples(group, lambda job: job.video_error)}."
        if lands
        else f"{what}, and the deployment lands none: videos=False?",
        hint=f"Is the sensor {account}_poll_results switched on, and do the runs of {account}_land_videos succeed?",
        level=Level.PROBLEM if lands else Level.NOTICE,
    )


def _examples(group: JobGroup, why: Callable[[Job], str | None]) -> str:
    ids = named([job.job_id for job in group.examples], group.number)
    reasons = list(dict.fromkeys(reason for job in group.examples if (reason := why(job))))
    return f"{ids} ({'; '.join(reasons)})" if reasons else ids
