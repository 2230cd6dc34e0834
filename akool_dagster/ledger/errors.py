"""What can go wrong with the ledger, each error with what to do next."""

from __future__ import annotations

from akool_dagster.errors import AkoolDagsterError


class LedgerError(AkoolDagsterError):
    """The base class of every error of the job ledger."""


class LedgerUrlError(LedgerError):
    """The ledger's URL cannot be used as it is written."""


class LedgerMissingError(LedgerError):
    """There is no ledger at the URL. Only tracking and ``ledger init`` create one."""


class LedgerSchemaError(LedgerError):
    """The ledger was made by a newer or an older version of this package."""


class LedgerUnavailableError(LedgerError):
    """The database cannot be reached, is locked, or may not be written. Trying again can help."""


class LeaseHeldError(LedgerError):
    """Another run holds the lease of this partition."""


class LeaseLostError(LedgerError):
    """This run's lease ran out and may belong to another run by now, so it must not write."""


class GranularityError(LedgerError):
    """The account's partitions have another granularity, which is fixed at the first tick."""


class JobForgottenError(LedgerError):
    """The job was forgotten while this run worked on it: what the run made of the job must go."""


class InvalidJobError(LedgerError):
    """An id or a label that cannot be tracked. Carries the offending ``job_id``."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id

    def __reduce__(self) -> tuple[type[InvalidJobError], tuple[str, str]]:
        return type(self), (str(self), self.job_id)
