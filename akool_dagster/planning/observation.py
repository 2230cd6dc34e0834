"""When an account's jobs are observed, and what an observation shows."""

from __future__ import annotations

import json
from typing import Any

from akool_dagster.ledger.records import Counts, JobState, VideoState

OBSERVE_EVERY_MS = 600_000


def next_observation(cursor: str | None, counts: Counts, now_ms: int) -> str | None:
    """Return the sensor's next cursor when the counts are to be observed now; None when they are not.

    They are observed when they change; while a job or a video is pending, every ten minutes, since its age grows.
    """
    digest = {
        "states": dict(counts.states),
        "pending_statuses": dict(counts.pending_statuses),
        "videos": dict(counts.videos),
        "in_no_partition": counts.before_first_partition,
        "in_partitions_to_come": counts.after_current_partition,
    }
    last = _last_observation(cursor)
    if last is not None:
        observed_at, observed = last
        in_flight = counts.pending or counts.videos.get(VideoState.PENDING, 0)
        is_recent = 0 <= now_ms - observed_at < OBSERVE_EVERY_MS
        if is_recent if in_flight else observed == digest:
            return None
    return json.dumps({"observed_at": now_ms, "counts": digest})


def _last_observation(cursor: str | None) -> tuple[int, Any] | None:
    try:
        last = json.loads(cursor or "")
        return int(last["observed_at"]), last["counts"]
    except (ValueError, KeyError, TypeError):
        return None


def observation_metadata(counts: Counts) -> dict[str, int | float]:
    """Return an account's counts as metadata of an observation of its jobs; ages in seconds."""
    metadata: dict[str, int | float] = {f"akool/jobs_{state}": counts.states.get(state, 0) for state in JobState}
    metadata |= {f"akool/pending_{label}": number for label, number in counts.pending_statuses.items()}
    metadata |= {f"akool/videos_{state}": counts.videos.get(state, 0) for state in VideoState}
    return metadata | {
        "akool/oldest_pending_seconds": (counts.oldest_pending_ms or 0) / 1000,
        "akool/overdue": counts.overdue,
        "akool/in_no_partition": counts.before_first_partition,
        "akool/in_partitions_to_come": counts.after_current_partition,
    }
