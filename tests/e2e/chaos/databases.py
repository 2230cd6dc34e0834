"""The ledger's database as the crash test sees it: read, backed up, put back and struck, all without the package."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg2
import psycopg2.extras
import sqlalchemy as sa

from tests.postgres_server import postgres_server

Row = Mapping[str, Any]

ROLE = "akool_chaos"
"""The PostgreSQL role of the deployment, and its database."""
PASSWORD = "MARKED-SECRET-ledger-4712"
CONNECTION, CRASH = "database", "database crash"
"""The kinds of strikes at PostgreSQL."""
RECOVERY_SECONDS = 60.0
"""Within this a server that crashed answers again."""
POUNCE_SECONDS = 2.0
"""How long a strike waits for a transaction to break. One lasts milliseconds."""


class Strike(NamedTuple):
    """One way to strike the database itself."""

    weight: int
    """How often, against the other kills at random."""
    hit: Callable[[random.Random], bool]
    """Returns whether there was anybody to hit."""


class LedgerDatabase(Protocol):
    """What holds the ledger."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which the deployment finds it."""
        ...

    @property
    def secrets(self) -> Mapping[str, str]:
        """What must be nowhere but in that environment, by its name."""
        ...

    @property
    def strikes(self) -> Mapping[str, Strike]:
        """How the database itself is struck, by the name of each kind."""
        ...

    def rows(self, query: str) -> Sequence[Row]:
        """Return the rows of a query."""
        ...

    def execute(self, statement: str) -> None:
        """Change something."""
        ...

    def tables(self) -> Sequence[str]:
        """Return the names of all tables."""
        ...

    def damage(self) -> str | None:
        """Return what is wrong with the database, whatever it holds."""
        ...

    def back_up(self) -> None:
        """Save all of it while the deployment works on."""
        ...

    def put_back(self) -> None:
        """Replace it by what was saved; nobody may use it meanwhile."""
        ...


class SqliteLedger:
    """A ledger in a file."""

    secrets: Mapping[str, str] = {}
    strikes: Mapping[str, Strike] = {}

    def __init__(self, file: Path) -> None:
        """Take the file that holds it, or will."""
        self._file = file
        self._backup = file.with_name("backup.sqlite")
        self.environment: Mapping[str, str] = {"AKOOL_LEDGER_URL": f"sqlite:///{file}"}

    def rows(self, query: str) -> Sequence[Row]:
        """Return the rows of a query."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    def execute(self, statement: str) -> None:
        """Change something."""
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute(statement)

    def tables(self) -> Sequence[str]:
        """Return the names of all tables."""
        return [row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def damage(self) -> str | None:
        """Return what SQLite's own check finds."""
        said = "; ".join(row["integrity_check"] for row in self.rows("PRAGMA integrity_check"))
        return None if said == "ok" else said

    def back_up(self) -> None:
        """Save all of it while the deployment works on."""
        with closing(sqlite3.connect(self._file)) as source, closing(sqlite3.connect(self._backup)) as target:
            source.backup(target)

    def put_back(self) -> None:
        """Replace it by what was saved; nobody may use it meanwhile."""
        for leftover in self._file.parent.glob(f"{self._file.name}*"):
            leftover.unlink()
        shutil.copy(self._backup, self._file)


@contextmanager
def postgres_ledger(backup: Path) -> Iterator[PostgresLedger]:
    """Run a PostgreSQL server of its own with an empty database for the ledger; ``backup`` is a file for later."""
    with postgres_server() as server:
        yield PostgresLedger(server, backup)


class PostgresLedger:
    """A ledger in a database of its own, whose role has a marked password that the server asks for."""

    secrets: Mapping[str, str] = {"ledger's password": PASSWORD}

    def __init__(self, server: str, backup: Path) -> None:
        """Set up the server at this URL, its superuser's. It must serve nothing else."""
        self._server = server
        self._backup = backup
        (place,) = self._ask("SHOW hba_file", database="postgres")
        (tools,) = self._ask("SELECT setting FROM pg_config WHERE name = 'BINDIR'", database="postgres")
        self._tools = Path(tools["setting"])
        for statement in (
            f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'",
            # The server of the tests answers before it has written, which no user's ledger may be asked to survive.
            f"ALTER ROLE {ROLE} SET synchronous_commit = on",
            f"COPY (VALUES ('local all {ROLE} scram-sha-256'), ('local all all trust')) TO '{place['hba_file']}'",
            "SELECT pg_reload_conf()",
            f"CREATE DATABASE {ROLE} OWNER {ROLE}",
        ):
            self._ask(statement, database="postgres")

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which the deployment finds it."""
        url = sa.make_url(self._server).set(username=ROLE, password=PASSWORD, database=ROLE)
        return {"AKOOL_LEDGER_URL": url.render_as_string(hide_password=False)}

    @property
    def strikes(self) -> Mapping[str, Strike]:
        """How the database itself is struck, by the name of each kind."""
        return {CONNECTION: Strike(3, self.end_a_connection), CRASH: Strike(1, self.crash)}

    def rows(self, query: str) -> Sequence[Row]:
        """Return the rows of a query."""
        return self._ask(query)

    def execute(self, statement: str) -> None:
        """Change something."""
        self._ask(statement)

    def tables(self) -> Sequence[str]:
        """Return the names of all tables."""
        return [row["name"] for row in self.rows("SELECT relname AS name FROM pg_stat_user_tables ORDER BY relname")]

    def damage(self) -> str | None:
        """Return whether a page failed its checksum, or an index does not lead to the rows of its table."""
        (pages,) = self.rows("SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()")
        if pages["checksum_failures"]:
            return f"{pages['checksum_failures']} pages failed their checksum"
        keys = self.rows(_PRIMARY_KEYS)
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for key in keys:
                try:
                    there, found = (self._read_by(cursor, way, key) for way in ("seqscan", "indexscan"))
                except (psycopg2.errors.DataCorrupted, psycopg2.errors.IndexCorrupted) as error:
                    return str(error)
                if there != found:
                    return f"the primary key of {key['name']} leads to {found.total()} rows of {there.total()}"
        return None

    def back_up(self) -> None:
        """Save all of it with pg_dump while the deployment works on."""
        self._run("pg_dump", "--format=custom", "--compress=none", f"--file={self._backup}")

    def put_back(self) -> None:
        """Replace it with pg_restore by what was saved. Connections of killed processes may still be there."""
        self._ask(f"DROP DATABASE {ROLE} WITH (FORCE)", database="postgres")
        self._ask(f"CREATE DATABASE {ROLE} OWNER {ROLE}", database="postgres")
        self._run("pg_restore", "--exit-on-error", str(self._backup))

    def end_a_connection(self, rng: random.Random) -> bool:
        """End one connection of the deployment, in the middle of a transaction if there is one soon."""
        with closing(self._connected("postgres")) as witness:
            pid = _somebody(witness, rng)
            return pid is not None and bool(_fetched(witness, f"SELECT pg_terminate_backend({pid}) AS it")[0]["it"])

    def crash(self, rng: random.Random) -> bool:
        """Kill the process of a connection, whereupon the server ends all of them and recovers from its log.

        Returns when it answers again.
        """
        with closing(self._connected("postgres")) as witness:
            pid = _somebody(witness, rng)
            if pid is None:
                return False
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
            deadline = time.monotonic() + RECOVERY_SECONDS
            while _answers(lambda: _fetched(witness, "SELECT 1"), deadline):
                time.sleep(0.01)
        while not _answers(lambda: self._ask("SELECT 1"), deadline):
            time.sleep(0.05)
        return True

    def _read_by(self, cursor: Any, way: str, key: Row) -> Counter[str]:
        for other in ("seqscan", "indexscan", "bitmapscan", "indexonlyscan", "sort"):
            cursor.execute(f"SET LOCAL enable_{other} = {'on' if other == way else 'off'}")
        order = f"ORDER BY {key['columns']}" if way == "indexscan" else ""
        cursor.execute(f"SELECT t::text FROM {key['name']} AS t {order}")  # noqa: S608
        return Counter(text for (text,) in cursor)

    def _ask(self, statement: str, *, database: str = ROLE) -> Sequence[Row]:
        with closing(self._connected(database)) as connection:
            return _fetched(connection, statement)

    def _connected(self, database: str = ROLE) -> Any:
        connection = psycopg2.connect(self._server, dbname=database, connect_timeout=10)
        connection.autocommit = True
        return connection

    def _run(self, tool: str, *arguments: str) -> None:
        url = sa.make_url(self._server).set(database=ROLE).render_as_string(hide_password=False)  # it has no password
        subprocess.run([self._tools / tool, f"--dbname={url}", *arguments], check=True, timeout=120)


_CONNECTIONS = f"SELECT pid, state FROM pg_stat_activity WHERE usename = '{ROLE}' AND backend_type = 'client backend'"  # noqa: S608
_PRIMARY_KEYS = """
SELECT indrelid::regclass::text AS name, string_agg(quote_ident(attname), ', ' ORDER BY array_position(indkey, attnum))
  AS columns FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
  JOIN pg_stat_user_tables ON relid = indrelid WHERE indisprimary GROUP BY indrelid
"""


def _fetched(connection: Any, statement: str) -> Sequence[Row]:
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(statement)
        rows: Sequence[Row] = cursor.fetchall() if cursor.description else []
        return rows


def _somebody(connection: Any, rng: random.Random) -> int | None:
    """Return the process of one of the deployment's connections, rather one in a transaction."""
    deadline = time.monotonic() + POUNCE_SECONDS
    found: Sequence[Row] = ()
    while time.monotonic() < deadline:
        found = _fetched(connection, _CONNECTIONS)
        if busy := [row for row in found if row["state"] != "idle"]:
            return int(rng.choice(busy)["pid"])
        time.sleep(0.002)
    return int(rng.choice(found)["pid"]) if found else None


def _answers(ask: Callable[[], object], deadline: float) -> bool:
    if time.monotonic() > deadline:
        raise TimeoutError(f"The PostgreSQL server neither crashed nor recovered within {RECOVERY_SECONDS:g} s.")
    with suppress(psycopg2.Error):
        ask()
        return True
    return False
