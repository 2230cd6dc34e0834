"""What Akool's answer says of each job, as the ledger records it."""

from __future__ import annotations

from akool_dagster.api.models import ResultRow, ResultsAnswer
from akool_dagster.ledger import Answered, Missed, Observation, Unreadable

FAILED = 4


def observation_of(row: ResultRow, now_ms: int) -> Answered:
    """Return what a row says, as the ledger records it. Only a failed job has a failure's reason."""
    return Answered(
        job_id=row.job_id,
        status=row.status,
        payload=row.to_payload(),
        has_video_url=row.has_usable_video_url,
        video_expires_at=row.expires_ms(now_ms),
        failure_reason=row.failure_reason if row.status == FAILED else None,
    )


def observations_of(answer: ResultsAnswer, now_ms: int) -> list[Observation]:
    """Return what an answer says of every id that was asked for."""
    return [
        *(observation_of(row, now_ms) for row in answer.rows.values()),
        *(Unreadable(job_id=job_id, error=why) for job_id, why in answer.unparsable.items()),
        *(Missed(job_id=job_id) for job_id in answer.missing),
    ]
