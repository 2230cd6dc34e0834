"""The ledger's database: how it is reached, created and upgraded, and what a transaction is."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from akool_dagster.ledger import postgres
from akool_dagster.ledger.errors import (
    LedgerMissingError,
    LedgerSchemaError,
    LedgerUnavailableError,
    LedgerUrlError,
)
from akool_dagster.ledger.schema import SCHEMA_VERSION, VERSION_TABLE, ledger

Insert = Callable[[sa.Table], sqlite.Insert | postgresql.Insert]
"""Makes an INSERT that can say ON CONFLICT: the two dialects write it alike."""

HOW_TO_CREATE = (
    "If there was one before, restore its newest backup or run `akool-dagster ledger init`, and then run "
    "`akool-dagster ledger adopt`. If not, track a job (`akool-dagster track ID`) or run `akool-dagster ledger init` "
    "to create it."
)


def parse_ledger_url(url: str) -> sa.URL:
    """Return the URL of a ledger, or raise `LedgerUrlError` saying how to write it.

    A SQLite file needs an absolute path: the daemon, the runs and the command line have different working
    directories, and each would make a ledger of its own.
    """
    if "\0" in url or "%00" in url:
        raise LedgerUrlError("The ledger URL has a NUL character in it, which no path or name can have. Leave it out.")
    parsed = None
    with suppress(exc.ArgumentError, ValueError):  # ValueError: a port that is no number; it may be part of a password
        parsed = sa.make_url(url)
    if parsed is None:  # raised out here, for an error that quotes a part of the URL would stay on as the context
        path = Path(url).expanduser()
        hint = f"sqlite:///{path if path.is_absolute() else path.absolute()}"
        raise LedgerUrlError(
            f"The ledger URL is not a SQLAlchemy URL. For a SQLite file write {hint}"
            if "://" not in url and "@" not in url
            else "The ledger URL is not a SQLAlchemy URL. Write sqlite:////absolute/path/ledger.sqlite or "
            "postgresql://user:password@host:5432/database"
        )
    backend, _, driver = parsed.drivername.partition("+")
    if backend == "sqlite":
        database = parsed.database or ""
        if driver not in ("", "pysqlite"):
            raise LedgerUrlError(f"A ledger in SQLite needs no driver such as {driver!r}. Write sqlite:///{database}")
        if not database or database == ":memory:":
            raise LedgerUrlError(
                "An in-memory ledger would be forgotten between ticks. Write sqlite:////absolute/path/ledger.sqlite"
            )
        if not Path(database).is_absolute():
            raise LedgerUrlError(
                f"The ledger's path {database!r} is relative. Write sqlite:///{Path(database).expanduser().absolute()}"
            )
        return parsed
    if backend in postgres.SCHEMES:
        return parsed.set(drivername=postgres.DRIVER)
    raise LedgerUrlError(f"A ledger lives in SQLite or PostgreSQL, not in {backend!r}.")


class Database:
    """One SQLAlchemy engine, and transactions that report trouble as `LedgerError`."""

    def __init__(
        self, url: str, *, busy_timeout: float = 15.0, answer_timeout: float = postgres.ANSWER_SECONDS
    ) -> None:
        """Make the engine; nothing is connected to yet.

        ``busy_timeout``: seconds to wait for what another connection has locked. ``answer_timeout``: seconds that one
        transaction may take on PostgreSQL.
        """
        self.url = parse_ledger_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.insert: Insert = sqlite.insert if self.is_sqlite else postgresql.insert
        self._busy_timeout = busy_timeout
        self._answer_timeout = answer_timeout
        engine = self._new_engine()
        if engine is None:  # raised out here, for the error would quote a part of the URL
            raise LedgerUrlError(
                f"An option in the query of the ledger URL has a value that it cannot have. Write {self.shown}"
            )
        self.engine = engine
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _set_up_sqlite_connection)
            sa.event.listen(self.engine, "begin", _begin_sqlite_transaction)
        else:
            postgres.cut_off_connections(self.engine)

    def _new_engine(self) -> sa.Engine | None:
        try:
            return sa.create_engine(
                self.url,
                connect_args={"timeout": self._busy_timeout} if self.is_sqlite else postgres.connect_options(self.url),
                hide_parameters=True,
                pool_timeout=self._busy_timeout,
                **({} if self.is_sqlite else postgres.ENGINE_OPTIONS),
            )
        except ModuleNotFoundError as error:
            raise LedgerUrlError(
                f"The ledger URL needs the module {error.name!r}: pip install 'akool-dagster[postgres]'"
            ) from error
        except ValueError:  # an option of the query that is no number, or neither true nor false
            return None

    @property
    def shown(self) -> str:
        """Return the URL without its password and its query, which may hold one too, for messages."""
        shown = self.url.set(query={}).render_as_string(hide_password=True)
        schema = re.search(r"search_path=([\w,]+)", str(self.url.query.get("options", "")))
        return f"{shown} (schema {schema[1]})" if schema else shown

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def rows(self, query: sa.Executable) -> Sequence[Any]:
        """Return all rows of one query."""
        with self.read() as connection:
            return connection.execute(query).all()

    def value(self, query: sa.Executable) -> Any:
        """Return the first column of a query's first row; None where there is no row."""
        with self.read() as connection:
            return connection.execute(query).scalar()

    @contextmanager
    def write(self, *, alone: bool = False, seconds: float | None = None) -> Iterator[sa.Connection]:
        """Run one writing transaction; commit at the end, roll back on any error.

        On PostgreSQL each statement sees what was committed before it, so that what it waited for is compared anew.
        A transaction that is ``alone`` first waits for the end of every other such transaction. Transactions that add
        jobs are alone. On SQLite every writing transaction is.
        """
        options = {"akool_begin": "BEGIN IMMEDIATE"} if self.is_sqlite else {"isolation_level": "READ COMMITTED"}
        with self._transaction(options, seconds or self._answer_timeout) as connection:
            if alone and not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(postgres.LOCK)))
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Run one reading transaction in which every query sees the same snapshot."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._transaction(options, self._answer_timeout) as connection:
            yield connection

    @contextmanager
    def _transaction(self, options: Mapping[str, Any], seconds: float) -> Iterator[sa.Connection]:
        with self._reported(), ExitStack() as stack:
            try:
                connection = stack.enter_context(self._begun(options, seconds))
            except exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # The server had ended the pooled connection since its last use: nothing was asked of it yet.
                connection = stack.enter_context(self._begun(options, seconds))
            yield connection

    @contextmanager
    def _begun(self, options: Mapping[str, Any], seconds: float) -> Iterator[sa.Connection]:
        bound = nullcontext() if self.is_sqlite else postgres.cut_off_after(seconds, self.shown)
        with bound, self.engine.connect().execution_options(**options) as connection, connection.begin():
            if not self.is_sqlite:
                postgres.bound_transaction(connection, self._busy_timeout, seconds)
            yield connection

    def require(self) -> None:
        """Raise unless a ledger of exactly this code's version is there and may be written."""
        if self.is_sqlite:
            path = Path(self.url.database or "")
            if not _exists(path):
                raise LedgerMissingError(f"There is no ledger at {self.shown}. {HOW_TO_CREATE}")
            self._require_writable(path)
        version = self.version()
        if version is None:
            raise LedgerMissingError(f"The database {self.shown} holds no ledger. {HOW_TO_CREATE}")
        self._require_not_newer(version)
        if version < SCHEMA_VERSION:
            raise LedgerSchemaError(
                f"The ledger {self.shown} has the older schema {version}; akool-dagster here needs "
                f"{SCHEMA_VERSION}. Stop the daemon and run `akool-dagster ledger init` to upgrade it."
            )
        self._write_ahead()

    def create_or_upgrade(self, now: int) -> None:
        """Bring the database to this code's schema. Safe to run twice, and by two processes at once.

        ``now``: when a new ledger was created, in milliseconds.
        """
        if self.is_sqlite:
            path = Path(self.url.database or "")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerUnavailableError(f"The ledger's folder {path.parent} cannot be made: {error}") from error
            if _exists(path):
                self._require_writable(path)
        version = self.version()
        if version is not None:
            self._require_not_newer(version)
        if version != SCHEMA_VERSION:
            self._write_ahead()
            self._migrate(now)

    def version(self) -> str | None:
        """Return the schema's version, or None where there is no ledger."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table(VERSION_TABLE):
                if not self.is_sqlite and connection.scalar(sa.func.current_schema()) is None:
                    raise LedgerUnavailableError(
                        f"The ledger {self.shown} cannot be used now: this role may use no schema of its search_path, "
                        "or there is none of that name. GRANT USAGE ON SCHEMA … TO … lets it."
                    )
                return None
            row = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).first()  # noqa: S608
            return None if row is None else str(row[0])

    def _migrate(self, now: int) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "akool_dagster.ledger:migrations")
        with self.write(alone=True, seconds=postgres.MIGRATION_SECONDS) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            row = {"id": 1, "ledger_id": str(uuid.uuid4()), "version": 0, "created_at": now}
            connection.execute(self.insert(ledger).values(row).on_conflict_do_nothing())

    def _write_ahead(self) -> None:
        # The file remembers the mode. So it is set only once the file is known to be, or to become, a ledger:
        # another program's database, named by mistake, stays as it is.
        if self.is_sqlite:
            with self._reported(), self.engine.connect().execution_options(akool_begin=None) as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    def _require_not_newer(self, version: str) -> None:
        if version > SCHEMA_VERSION:
            raise LedgerSchemaError(
                f"The ledger {self.shown} has schema {version}, newer than the {SCHEMA_VERSION} this version "
                "of akool-dagster knows. Upgrade akool-dagster to the version that made it."
            )

    def _require_writable(self, path: Path) -> None:
        for needed in (path, path.parent):  # SQLite writes its journal beside the file
            if not os.access(needed, os.R_OK | os.W_OK):
                raise LedgerUnavailableError(f"The ledger cannot be written: no permission for {needed}")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            cause = next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)
            if isinstance(error, exc.ProgrammingError) and error.statement is None:
                raise LedgerUrlError(f"The ledger {self.shown} cannot be reached as its URL says: {cause}") from error
            if isinstance(error, _FAULTS) and not postgres.is_refusal(error):
                raise
            raise LedgerUnavailableError(f"The ledger {self.shown} cannot be used now: {cause}") from error
        except exc.TimeoutError as error:
            raise LedgerUnavailableError(f"The ledger {self.shown} has every connection in use: {error}") from error


_FAULTS = (exc.IntegrityError, exc.ProgrammingError, exc.DataError)
"""Faults of this code, not of the database: raised as they are, without advice to try again."""


def _set_up_sqlite_connection(connection: Any, _record: object) -> None:
    # The sqlite3 module would begin transactions on its own, and only before INSERT/UPDATE/DELETE: a snapshot
    # could not be read, and DDL would not roll back. https://docs.sqlalchemy.org/en/20/dialects/sqlite.html
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")  # a tracked id is paid work: it must survive a power cut too
    cursor.close()


def _begin_sqlite_transaction(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    # A deferred transaction that reads first and writes later fails at once when another wrote in between.
    begin = options.get("akool_begin", "BEGIN")
    if begin is not None:
        connection.exec_driver_sql(begin)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # such as a folder above it that may not be entered
        raise LedgerUnavailableError(f"The ledger's file cannot be reached: {error}") from error
