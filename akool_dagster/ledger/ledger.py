"""The job ledger: the one durable record of which jobs there are and what became of them."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from akool_dagster.base.accounts import check_account
from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.ledger.account import AccountLedger
from akool_dagster.ledger.database import HOW_TO_CREATE, Database
from akool_dagster.ledger.errors import LedgerMissingError
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
            with database.read() as connection:
                ledger_id = connection.execute(sa.select(ledger.c.ledger_id)).scalar()
            if ledger_id is None:
                raise LedgerMissingError(f"The ledger {database.shown} was not finished. {HOW_TO_CREATE}")
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
            database.create_or_upgrade()
            row = {"id": 1, "ledger_id": str(uuid.uuid4()), "version": 0}
            row["created_at"] = (clock or SystemClock()).now_ms()
            with database.write() as connection:
                connection.execute(database.insert(ledger).values(row).on_conflict_do_nothing())
        finally:
            database.close()
        return cls.open(url, clock=clock, limits=limits, busy_timeout=busy_timeout)

    def account(self, name: str) -> AccountLedger:
        """Return one account's part of the ledger. Raises `InvalidAccountError` for what no account can be called."""
        check_account(name)
        return AccountLedger(self._database, name, self.ledger_id, self._clock, self._limits)

    def accounts(self) -> list[str]:
        """Return every account that the ledger knows of, in order."""
        with self._database.read() as connection:
            known = sa.union(sa.select(jobs.c.account), sa.select(accounts.c.account))
            return sorted(connection.execute(known).scalars())

    def version(self) -> int:
        """Return the ledger's counter."""
        with self._database.read() as connection:
            return int(connection.execute(sa.select(ledger.c.version)).scalar_one())

    @property
    def shown_url(self) -> str:
        """Return the ledger's URL without its password, for messages."""
        return self._database.shown

    def close(self) -> None:
        """Close the ledger's connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
