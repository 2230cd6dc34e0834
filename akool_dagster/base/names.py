"""Every Dagster name of one account, derived from its prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_LANDED: Mapping[str, str] = {"tables": "results", "videos": "videos"}
"""What the job of each kind of landing is called after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountNames:
    """Every Dagster name of one account, derived from its prefix."""

    prefix: str

    @property
    def akool(self) -> str:
        """Return the resource key of `AkoolResource`."""
        return self.prefix

    @property
    def ledger(self) -> str:
        """Return the resource key of `JobLedgerResource`."""
        return f"{self.prefix}_ledger"

    @property
    def videos(self) -> str:
        """Return the resource key of `VideoStoreResource`."""
        return f"{self.prefix}_videos"

    @property
    def tables(self) -> str:
        """Return the resource key of the IO manager."""
        return f"{self.prefix}_tables"

    @property
    def sensor(self) -> str:
        """Return the name of the sensor that polls."""
        return f"{self.prefix}_poll_results"

    def job(self, kind: str) -> str:
        """Return the name of the job that lands the tables or the videos."""
        return f"{self.prefix}_land_{_LANDED[kind]}"

    def asset(self, name: str) -> list[str]:
        """Return the path of one of the account's asset keys."""
        return [self.prefix, name]
