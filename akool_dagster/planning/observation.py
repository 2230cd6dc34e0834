"""The observation of an account's jobs in Dagster: what it shows, and when the next one is due."""

from __future__ import annotations

import json

from akool_dagster.ledger.records import Counts, JobState, VideoState

OBSERVE_EVERY_MS = 600_000


def observation_metadata(counts: Counts) -> dict[str, int | float]:
    """Return an account's counts as metadata of an observation of its jobs; ages in seconds."""
    return {
        **{f"akool/jobs_{state}": counts.states.get(state, 0) for state in JobState},
        **{f"akool/pending_{label}": number for label, number in counts.pending_statuses.items()},
        **{f"akool/videos_{state}": counts.videos.get(state, 0) for state in VideoState},
        "akool/oldest_pending_seconds": (counts.oldest_pending_ms or 0) / 1000,
        "akool/overdue": counts.overdue,
        "akool/in_no_partition": counts.before_first_partition,
        "akool/in_partitions_to_come": counts.after_current_partition,
    }


def next_observation(cursor: str | None, counts: Counts, now_ms: int) -> str | None:
    """Return the sensor's next cursor when the counts are to be observed now; None when they are not.

    The counts are observed every ten minutes while a job or a video is pending, and otherwise when they differ from
    the last ones. A cursor that cannot be read counts as none.
    """
    shown = observation_metadata(counts)
    try:
        last = json.loads(cursor or "")
        since_ms, is_same = now_ms - int(last["observed_at"]), last["counts"] == shown
    except (ValueError, KeyError, TypeError):
        since_ms, is_same = OBSERVE_EVERY_MS, False
    is_in_flight = counts.pending or counts.videos.get(VideoState.PENDING, 0)
    is_due = not 0 <= since_ms < OBSERVE_EVERY_MS if is_in_flight else not is_same
    return json.dumps({"observed_at": now_ms, "counts": shown}) if is_due else None
