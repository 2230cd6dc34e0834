"""The durable record of jobs: which are watched, what Akool said of each, and what became of its video."""

from akool_dagster.ledger.errors import (
    InvalidJobError,
    LeaseHeldError,
    LeaseLostError,
    LedgerError,
    LedgerMissingError,
    LedgerSchemaError,
    LedgerUnavailableError,
    LedgerUrlError,
)
from akool_dagster.ledger.ledger import JobLedger
from akool_dagster.ledger.records import (
    Answered,
    ClaimedJob,
    Counts,
    Job,
    JobState,
    Missed,
    Observation,
    PartitionSnapshot,
    RecordReport,
    TrackReport,
    TrackRequest,
    Unreadable,
    VideoState,
)

__all__ = [
    "Answered",
    "ClaimedJob",
    "Counts",
    "InvalidJobError",
    "Job",
    "JobLedger",
    "JobState",
    "LeaseHeldError",
    "LeaseLostError",
    "LedgerError",
    "LedgerMissingError",
    "LedgerSchemaError",
    "LedgerUnavailableError",
    "LedgerUrlError",
    "Missed",
    "Observation",
    "PartitionSnapshot",
    "RecordReport",
    "TrackReport",
    "TrackRequest",
    "Unreadable",
    "VideoState",
]
