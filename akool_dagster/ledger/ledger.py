"""The job ledger: the one durable record of which jobs there are and what became of them."""

from __future__ import annotations

from typing import Self

import sqlalchemy as sa

from akool_dagster.base.accounts import check_account
from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.ledger.account import AccountLedger
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.schema import accounts, jobs, ledger
from akool_dagster.ledger.transitions import Limits


class JobLedger:
    """A database with the jobs of one or several accounts. Use `open` or `create`, then `account`, then `close`."""

    def __init__(self, database: Database, ledger_id: str, clock: Clock, limits: Limits) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self.ledger_id = ledger_id
        """The ledger's own id, given when it was created. The storage root's marker names it."""

    @classmethod
    def open(
        cls, url: str, *, clock: Clock | None = None, limits: Limits | None = None, busy_timeout: float = 15.0
    ) -> Self:
        """Open the ledger at the URL; never create one.

        Raises `LedgerMissingError`, `LedgerSchemaError` or `LedgerUnavailableError` before any effect.
        """
        database = Database(url, busy_timeout=busy_timeout)
        try:
            database.require()
            ledger_id = database.value(sa.select(ledger.c.ledger_id))
            return cls(database, ledger_id, clock or SystemClock(), limits or Limits())
        except BaseException:
            database.close()
            raise

    @classmethod
    def create(
        cls, url: str, *, clock: Clock | None = None, limits: Limits | None = None, busy_timeout: float = 15.0
    ) -> Self:
        """Open the ledger at the URL, creating or upgrading it first where needed."""
        database = Database(url, busy_timeout=busy_timeout)
        try:
            database.create_or_upgrade((clock or SystemClock()).now_ms())
        finally:
            database.close()
        return cls.open(url, clock=clock, limits=limits, busy_timeout=busy_timeout)

    def account(self, name: str) -> AccountLedger:
        """Return one account's part of the ledger. Raises `InvalidAccountError` for what no account can be called."""
        check_account(name)
        return AccountLedger(self._database, name, self.ledger_id, self._clock, self._limits)

    def accounts(self) -> list[str]:
        """Return every account that the ledger knows of, in order."""
        known = sa.union(sa.select(jobs.c.account), sa.select(accounts.c.account))
        return sorted(row[0] for row in self._database.rows(known))

    def version(self) -> int:
        """Return the ledger's counter."""
        return int(self._database.value(sa.select(ledger.c.version)))

    @property
    def shown_url(self) -> str:
        """Return the ledger's URL without its password, for messages."""
        return self._database.shown

    def close(self) -> None:
        """Close the ledger's connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
