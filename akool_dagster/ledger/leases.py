"""Leases: at most one run lands a partition at a time, and a killed run frees it within a minute."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.errors import LeaseHeldError, LeaseLostError, LedgerUnavailableError
from akool_dagster.ledger.records import LEASE_MS, LeaseFacts
from akool_dagster.ledger.schema import leases

RENEW_SECONDS = 10.0
WAIT_SECONDS = 75.0
"""Longer than a lease lives, so that a run started right after a kill gets its turn."""
RETRY_SECONDS = 2.0
IDLE_SECONDS = 1800.0
"""How long a lease is renewed after its last `HeldLease.check`: longer than any one effect takes."""


class Leases:
    """The leases of one account's partitions."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def take(self, kind: str, partition_key: str, owner: str) -> LeaseFacts | None:
        """Take or renew a lease; return None when it is ours, else who holds it."""
        now = self._clock.now_ms()
        ours = {"owner": owner, "expires_at": now + LEASE_MS}
        statement = self._database.insert(leases).values(
            account=self._account, kind=kind, partition_key=partition_key, **ours
        )
        statement = statement.on_conflict_do_update(
            index_elements=[leases.c.account, leases.c.kind, leases.c.partition_key],
            set_=ours,
            where=(leases.c.owner == owner) | (leases.c.expires_at <= now) | (leases.c.expires_at > now + 2 * LEASE_MS),
        )
        query = sa.select(leases.c.owner, leases.c.expires_at).where(*self._key(kind, partition_key))
        with self._database.write() as connection:
            connection.execute(statement)
            holder, expires_at = connection.execute(query).one()
        return None if holder == owner else LeaseFacts(owner=holder, expires_at=expires_at)

    def renew(self, kind: str, partition_key: str, owner: str) -> bool:
        """Prolong our lease; return False when it is not ours any more."""
        return self._set_expiry(kind, partition_key, owner, self._clock.now_ms() + LEASE_MS)

    def release(self, kind: str, partition_key: str, owner: str) -> None:
        """End our lease. Who held it last stays known."""
        self._set_expiry(kind, partition_key, owner, 0)

    def facts(self, kind: str) -> dict[str, LeaseFacts]:
        """Return the last lease of every partition of a kind, live or not."""
        query = sa.select(leases.c.partition_key, leases.c.owner, leases.c.expires_at)
        with self._database.read() as connection:
            rows = connection.execute(query.where(leases.c.account == self._account, leases.c.kind == kind))
            return {key: LeaseFacts(owner=owner, expires_at=expires_at) for key, owner, expires_at in rows}

    def acquire(self, kind: str, partition_key: str, owner: str) -> HeldLease:
        """Take the lease of a partition, waiting up to 75 s for another run's, and renew it until `HeldLease.release`.

        Raises `LeaseHeldError` when another run goes on holding it.
        """
        patience = Deadline(self._clock, WAIT_SECONDS)
        while True:
            started = self._clock.now_ms()
            holder = self.take(kind, partition_key, owner)
            if holder is None:
                return HeldLease(self, kind, partition_key, owner, self._clock, valid_until=started + LEASE_MS)
            if patience.expired():
                raise LeaseHeldError(
                    f"{holder.owner} holds the lease on {kind} of {partition_key} and did not give it back "
                    f"within {WAIT_SECONDS:.0f} s. Wait for it, or end it; its lease ends a minute later."
                )
            self._clock.sleep(RETRY_SECONDS)

    def _set_expiry(self, kind: str, partition_key: str, owner: str, expires_at: int) -> bool:
        statement = sa.update(leases).where(*self._key(kind, partition_key), leases.c.owner == owner)
        with self._database.write() as connection:
            return connection.execute(statement.values(expires_at=expires_at)).rowcount == 1

    def _key(self, kind: str, partition_key: str) -> tuple[sa.ColumnElement[bool], ...]:
        return (
            leases.c.account == self._account,
            leases.c.kind == kind,
            leases.c.partition_key == partition_key,
        )


class HeldLease:
    """One lease, renewed by a thread until `release`. `check` before every effect."""

    def __init__(
        self, leases: Leases, kind: str, partition_key: str, owner: str, clock: Clock, *, valid_until: int
    ) -> None:
        self.kind = kind
        self.partition_key = partition_key
        self.owner = owner
        self._leases = leases
        self._clock = clock
        self._stop = threading.Event()
        self._idle = Deadline(clock, IDLE_SECONDS)
        self._valid_until = valid_until
        self._thread = threading.Thread(target=self._keep_renewing, name="akool-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `LeaseLostError` when the lease may have passed to another run."""
        self._idle = Deadline(self._clock, IDLE_SECONDS)
        if self._clock.now_ms() >= self._valid_until:
            raise LeaseLostError(
                f"The lease on {self.kind} of {self.partition_key} ran out before it was renewed, and another run may "
                "hold it now. Nothing more was written; the next tick asks for the partition again."
            )

    def release(self) -> None:
        """End the renewal and give the lease back. A second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        with suppress(LedgerUnavailableError):  # it runs out by itself: no reason to fail a run that is done
            self._leases.release(self.kind, self.partition_key, self.owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _keep_renewing(self) -> None:
        while not self._clock.wait(self._stop, RENEW_SECONDS) and not self._idle.expired():
            started = self._clock.now_ms()
            try:
                if not self._leases.renew(self.kind, self.partition_key, self.owner):
                    self._valid_until = 0
                    return
                self._valid_until = started + LEASE_MS
            except LedgerUnavailableError:
                continue  # the lease stays valid until it runs out; the next renewal may get through
