"""The durable record of jobs: which are watched, what Akool said of each, and what became of its video."""

from akool_dagster.ledger.account import AccountLedger
from akool_dagster.ledger.errors import (
    GranularityError,
    InvalidJobError,
    JobForgottenError,
    LeaseHeldError,
    LeaseLostError,
    LedgerError,
    LedgerMissingError,
    LedgerSchemaError,
    LedgerUnavailableError,
    LedgerUrlError,
)
from akool_dagster.ledger.landings import PartitionSnapshot
from akool_dagster.ledger.leases import HeldLease
from akool_dagster.ledger.ledger import JobLedger
from akool_dagster.ledger.records import (
    Answered,
    ClaimedJob,
    Counts,
    Job,
    JobState,
    LandingKind,
    Missed,
    Observation,
    RecordReport,
    TrackReport,
    TrackRequest,
    Unanswered,
    Unreadable,
    VideoState,
)
from akool_dagster.ledger.transitions import Polling

__all__ = [
    "AccountLedger",
    "Answered",
    "ClaimedJob",
    "Counts",
    "GranularityError",
    "HeldLease",
    "InvalidJobError",
    "Job",
    "JobForgottenError",
    "JobLedger",
    "JobState",
    "LandingKind",
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
    "Polling",
    "RecordReport",
    "TrackReport",
    "TrackRequest",
    "Unanswered",
    "Unreadable",
    "VideoState",
]
