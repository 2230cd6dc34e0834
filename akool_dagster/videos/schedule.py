"""When to try a video again, and when to give it up: pure functions of what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum

from akool_dagster.ledger.records import VideoState
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


class Failure(Enum):
    """What an attempt ended with, as far as it matters for giving up."""

    GONE = "404 or 410"
    FORBIDDEN = "403"
    PASSING = "trouble that may pass: the host, the network, bytes that are no whole video"
    LASTING = "what only another configuration can mend: a refused address, too large a file"


FINAL: Mapping[tuple[Failure, AkoolSays], str] = {
    (Failure.GONE, AkoolSays.FAILED): "Both say that there is no video.",
    (Failure.GONE, AkoolSays.UNKNOWN_ID): "Both say that there is no video.",
}
"""What is final before the 7 days are over: the CDN and Akool, asked independently, both deny the video.

A 403 is not among it, which a CDN also answers for reasons of its own, nor is a missing row; and 1003 and 1009 are
about the key that asks. A wrong key can make Akool deny an id, but not the CDN a file.
"""

PATIENCE_MS: Mapping[Failure, int] = {
    Failure.GONE: 0,
    Failure.FORBIDDEN: 0,
    Failure.PASSING: GRACE_MS,
    Failure.LASTING: 0,
}
"""How long after the 7 days an attempt may still end so without the video being lost."""


def next_attempt_ms(attempts: int, now_ms: int, *, retryable: bool = True) -> int:
    """Return the moment (epoch ms) before which a video is not tried again after that many attempts (from 1).

    30 s after the first, doubling up to one hour. An answer that only a change of configuration can turn
    (``retryable=False``) waits the whole hour at once.
    """
    if not retryable:
        return now_ms + LONGEST_WAIT_MS
    doublings = min(max(attempts - 1, 0), LONGEST_WAIT_MS.bit_length())
    return now_ms + min(FIRST_WAIT_MS << doublings, LONGEST_WAIT_MS)


def why_lost(failure: Failure, says: AkoolSays, *, now_ms: int, expires_at_ms: int, attempts: int) -> str | None:
    """Return why a video is lost for good after an attempt that failed, as a sentence; None when it is not.

    ``says`` is what Akool answered in that attempt. Only when its URL's life is over and `FEWEST_ATTEMPTS` were made,
    and then not for trouble that may pass or while Akool cannot be asked for a newer URL, until three days later.
    Before that, only what `FINAL` names: a broken name server or a missing setting must not cost a paid video.
    """
    if attempts >= FINAL_ATTEMPTS and (failure, says) in FINAL:
        return FINAL[failure, says]
    unasked = failure in (Failure.GONE, Failure.FORBIDDEN) and says is AkoolSays.NOTHING
    patience_ms = GRACE_MS if unasked else PATIENCE_MS[failure]
    if attempts < FEWEST_ATTEMPTS or now_ms < expires_at_ms + patience_ms:
        return None
    return _ended(expires_at_ms)


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
    """Return what a video is after an attempt that failed, and why as a sentence (empty for a pending one).

    ``kept`` is the path of the file that the verifier refused, if there is one, ``refusals`` how many attempts ended
    so, this one included. With a kept file a video is never lost: it is unverified after `MOST_REFUSALS`, or when
    its URL's life is over. Without one `why_lost` decides.
    """
    if kept is None:
        reason = why_lost(failure, says, now_ms=now_ms, expires_at_ms=expires_at_ms, attempts=attempts)
        return (VideoState.PENDING, "") if reason is None else (VideoState.LOST, reason)
    if refusals >= MOST_REFUSALS:
        return VideoState.UNVERIFIED, f"What was served was refused {refusals} times."
    if now_ms >= expires_at_ms:
        return VideoState.UNVERIFIED, _ended(expires_at_ms)
    if attempts >= FINAL_ATTEMPTS and (failure, says) in FINAL:
        return VideoState.UNVERIFIED, FINAL[failure, says]
    return VideoState.PENDING, ""


def _ended(expires_at_ms: int) -> str:
    return f"Its 7 days ended on {datetime.fromtimestamp(expires_at_ms / 1000, tz=UTC):%Y-%m-%d %H:%M} UTC."
