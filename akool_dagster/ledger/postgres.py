"""A ledger in PostgreSQL: how it connects, and how every wait for the server is bounded.

Three clocks bound a transaction, because each covers what the others cannot see: libpq's ``connect_timeout`` until
there is a connection, the server's own timeouts while it works or waits for a lock, and `cut_off_after` for a server
that holds the connection open and says nothing (a stopped process, a dead network path).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from akool_dagster.ledger.errors import LedgerUnavailableError

DRIVER = "postgresql+psycopg2"
"""In full: plain ``postgresql://`` means psycopg 3 from SQLAlchemy 2.1 on, and dagster-postgres brings psycopg2."""
SCHEMES = frozenset({"postgresql", "postgres"})
"""``postgres`` is what libpq and several hosts write."""

CONNECT_OPTIONS: dict[str, Any] = {"connect_timeout": 10, "application_name": "akool-dagster"}
"""libpq's names, seconds. A URL's query may say otherwise."""
ENGINE_OPTIONS: dict[str, Any] = {
    "executemany_mode": "values_plus_batch",  # the changes of one call are one round trip
    "use_native_hstore": False,  # one question less to a new connection
}
ANSWER_SECONDS = 60.0
"""How long one transaction may take: a partition of 100,000 jobs is read in a few seconds."""
MIGRATION_SECONDS = 900.0
"""How long an upgrade of the schema may take: it may build an index over every job."""

LOCK = 0x616B6F6F6C
"""The advisory lock of transactions that must be alone: ``akool`` in ASCII."""

REFUSALS = frozenset({"42501", "3F000"})
"""SQLSTATEs of a role that may not do this here, and of a search path without a schema to create in."""


def connect_options(url: sa.URL) -> dict[str, Any]:
    """Return the options to connect with that the URL itself does not give."""
    return {name: value for name, value in CONNECT_OPTIONS.items() if name not in url.query}


def bound_transaction(connection: sa.Connection, lock_seconds: float, seconds: float) -> None:
    """Let the server end this transaction when it waits or works too long, or when its client stands still.

    A commit lasts from its acknowledgement on, also where the server's default is otherwise. The settings are the
    transaction's own: behind a pooler such as PgBouncer, those of a session may reach another client, or none.
    """
    connection.execute(_BOUNDS, {"lock": _milliseconds(lock_seconds), "all": _milliseconds(seconds)})


_BOUNDS = sa.text(
    "SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :all, true), "
    "set_config('idle_in_transaction_session_timeout', :all, true), "
    # A server may acknowledge commits that a crash of its machine undoes: not for ids that are known nowhere else.
    "set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
    "WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"
)


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))  # 0 would mean without end


class CutOff:
    """Shuts the sockets that one transaction uses when its time is over.

    psycopg2 waits inside libpq, without a limit of its own, and an end of file is what wakes it. libpq's keepalives
    and ``tcp_user_timeout`` end a wait for a network that is gone, but not for a process that is stopped, nor for a
    pooler that pauses: the system's kernel goes on acknowledging for those.
    """

    def __init__(self) -> None:
        self.happened = False
        self._sockets: list[socket.socket] = []

    def watch(self, connection: Any) -> None:
        """Watch a driver's connection from now on."""
        # A copy of the descriptor: the number of a closed one may belong to another file by the time it is used.
        self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))
        if self.happened:
            self.cut()

    def cut(self) -> None:
        """Shut what is watched, and whatever will be."""
        self.happened = True
        for watched in tuple(self._sockets):
            with suppress(OSError):  # the server closed it first
                watched.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Watch nothing any more."""
        for watched in self._sockets:
            watched.close()


_cut_off: ContextVar[CutOff | None] = ContextVar("akool_dagster_ledger_cut_off", default=None)


def cut_off_connections(engine: sa.Engine) -> None:
    """Let the connections of an engine be watched by the `cut_off_after` that they are used in."""

    def watch(connection: Any, *_: object) -> None:
        if (cut_off := _cut_off.get()) is not None:
            cut_off.watch(connection)

    # First of all: SQLAlchemy asks a new connection several things before the connection is handed out.
    sa.event.listen(engine, "connect", watch, insert=True)
    sa.event.listen(engine, "checkout", watch, insert=True)


@contextmanager
def cut_off_after(seconds: float, shown: str) -> Iterator[None]:
    """Raise `LedgerUnavailableError` when the block, connecting included, waits for the server beyond that time."""
    cut_off = CutOff()
    timer = threading.Timer(seconds, cut_off.cut)
    timer.daemon = True
    timer.start()
    token = _cut_off.set(cut_off)
    try:
        yield
    except Exception as error:
        if not cut_off.happened:
            raise
        raise LedgerUnavailableError(
            f"The ledger {shown} cannot be used now: its server did not answer within {seconds:g} s."
        ) from error
    finally:
        _cut_off.reset(token)
        timer.cancel()
        timer.join()  # so that it shuts no connection that is in the pool again
        cut_off.close()


def is_refusal(error: exc.DBAPIError) -> bool:
    """Return whether the server will not have this done by this role, or here."""
    return getattr(error.orig, "pgcode", None) in REFUSALS
