"""When a failed video is tried again, and when it is given up: pure functions of what was seen."""

from __future__ import annotations

from datetime import UTC, datetime

from akool_dagster.ledger.records import VideoState
from akool_dagster.videos.errors import Failure
from akool_dagster.videos.refresh import AkoolSays

FIRST_WAIT_MS = 30_000
LONGEST_WAIT_MS = 3_600_000

GRACE_MS = 3 * 86_400_000
"""How long after its 7 days a video is still tried when nobody said that it is gone: over a long weekend."""
FEWEST_ATTEMPTS = 5
"""Before a video is given up for its age: they take seven minutes, in which a clock that was wrong may be put right."""
FINAL_ATTEMPTS = 9
"""Before the 7 days are over nothing is final earlier: as many attempts take more than two hours."""
MOST_REFUSALS = 3
"""Attempts that the verifier refused, before a video is not tried any more and its kept file is what there is."""

DENIALS = frozenset({AkoolSays.FAILED, AkoolSays.UNKNOWN_ID})
"""Answers that are final before the 7 days are over, together with a 404 or 410 of the CDN: both deny the video.

A 403 is not final, for a CDN answers 403 for reasons of its own, nor is a missing row; and 1003 and 1009 are about the
key that asks. A wrong key can make Akool deny an id, but not the CDN a file.
"""


def next_attempt_ms(attempts: int, now_ms: int, failure: Failure = Failure.PASSING) -> int:
    """Return the time (epoch ms) before which a video is not tried again after that many attempts (from 1).

    30 s after the first, doubling up to one hour. What only another configuration can mend waits the whole hour at
    once.
    """
    if failure is Failure.LASTING:
        return now_ms + LONGEST_WAIT_MS
    doublings = min(attempts - 1, LONGEST_WAIT_MS.bit_length())  # 2 ** attempts would be a number of any size
    return now_ms + min(FIRST_WAIT_MS << doublings, LONGEST_WAIT_MS)


def decide_fate(
    failure: Failure,
    says: AkoolSays,
    *,
    kept: str | None,
    refusals: int,
    now_ms: int,
    expires_at_ms: int,
    attempts: int,
) -> tuple[VideoState, str]:
    """Return what a video is after an attempt that failed, and why as a sentence (empty for a pending video).

    ``says`` is what Akool answered in that attempt, ``kept`` the path of the file that the verifier refused, if there
    is one, and ``refusals`` the number of attempts that ended so, this attempt included.

    With a kept file a video is never lost: the video is unverified after `MOST_REFUSALS`, or when its URL's life is
    over. Without a kept file the video is lost when its URL's life is over and `FEWEST_ATTEMPTS` were made, but three
    days later for trouble that may pass, or while Akool cannot be asked for a newer URL. Before the URL's end nothing
    is final but `DENIALS`: a broken name server or a missing setting must not cost a paid video.
    """
    given_up = VideoState.LOST if kept is None else VideoState.UNVERIFIED
    if kept is not None and refusals >= MOST_REFUSALS:
        return given_up, f"What was served was refused {refusals} times."
    if failure is Failure.GONE and says in DENIALS and attempts >= FINAL_ATTEMPTS:
        return given_up, "Both say that there is no video."
    is_unasked = failure in (Failure.GONE, Failure.FORBIDDEN) and says is AkoolSays.NOTHING
    may_pass = kept is None and (failure is Failure.PASSING or is_unasked)
    is_over = now_ms >= expires_at_ms + (GRACE_MS if may_pass else 0)
    if is_over and (kept is not None or attempts >= FEWEST_ATTEMPTS):
        end = datetime.fromtimestamp(expires_at_ms / 1000, tz=UTC)
        return given_up, f"Its 7 days ended on {end:%Y-%m-%d %H:%M} UTC."
    return VideoState.PENDING, ""
