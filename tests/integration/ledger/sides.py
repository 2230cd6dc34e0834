"""Two processes at one ledger, each with its own connections, in an order that the test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger import AccountLedger, JobLedger
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.transitions import Limits
from tests.clock import FakeClock
from tests.integration.ledger.helpers import ACCOUNT

LONGEST_SECONDS = 30.0
"""After this a test fails instead of hanging."""
IMPATIENT_SECONDS = 0.05
"""The patience of a side that is to fail instead of wait."""

_HELD = "held-transaction"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Side:
    """One process: an account of a ledger and the database beneath it."""

    database: Database
    account: AccountLedger

    @property
    def is_sqlite(self) -> bool:
        """Return whether there is one lock for everything."""
        return self.database.is_sqlite


@contextmanager
def side(
    url: str,
    *,
    clock: Clock | None = None,
    busy_timeout: float = LONGEST_SECONDS,
    answer_timeout: float = LONGEST_SECONDS,
    options: str = "",
) -> Iterator[Side]:
    """Open a ledger as a process of its own would. ``options``: settings for its sessions on PostgreSQL."""
    if url.startswith("postgresql"):
        parsed = sa.make_url(url)
        search_path = str(parsed.query["options"])
        parsed = parsed.update_query_dict({"options": f"{search_path} {options}", "application_name": search_path})
        url = parsed.render_as_string(hide_password=False)
    database = Database(url, busy_timeout=busy_timeout, answer_timeout=answer_timeout)
    try:
        yield Side(database, JobLedger(database, "the ledger", clock or FakeClock(), Limits()).account(ACCOUNT))
    finally:
        database.close()


@contextmanager
def uncommitted(one: Side, work: Callable[[], _Result]) -> Iterator[Future[_Result]]:
    """Do the work in a thread up to its first commit, which comes when the block ends."""
    with _held(one, "commit", work, lambda *_: True) as future:
        yield future


@contextmanager
def held_before(one: Side, words: str, work: Callable[[], _Result]) -> Iterator[Future[_Result]]:
    """Do the work in a thread up to its first statement that begins with these words; it goes on after the block."""

    def is_it(_connection: object, _cursor: object, statement: str, *_: object) -> bool:
        return statement.startswith(words)

    with _held(one, "before_cursor_execute", work, is_it) as future:
        yield future


@contextmanager
def _held(one: Side, event: str, work: Callable[[], _Result], is_it: Callable[..., bool]) -> Iterator[Future[_Result]]:
    reached, go_on = threading.Event(), threading.Event()

    def hold(*arguments: Any) -> None:
        if threading.current_thread().name.startswith(_HELD) and not go_on.is_set() and is_it(*arguments):
            reached.set()
            assert go_on.wait(LONGEST_SECONDS)

    sa.event.listen(one.database.engine, event, hold)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix=_HELD) as pool:
            future = pool.submit(work)
            future.add_done_callback(lambda _: reached.set())
            try:
                assert reached.wait(LONGEST_SECONDS)
                assert not future.done(), future.exception()
                yield future
            finally:
                go_on.set()
            future.exception(LONGEST_SECONDS)
    finally:
        sa.event.remove(one.database.engine, event, hold)


def wait_until_waiting(one: Side, sessions: int = 1) -> None:
    """Return once so many sessions at this ledger wait for a lock. SQLite does not tell: it returns at once."""
    if one.is_sqlite:
        return
    query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND wait_event_type = 'Lock'")
    pause = threading.Event()
    engine = sa.create_engine(one.database.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for _ in range(int(LONGEST_SECONDS * 200)):
            name = one.database.url.query["application_name"]
            if connection.execute(query, {"name": name}).scalar_one() >= sessions:
                return
            pause.wait(0.005)
    raise AssertionError(f"there are not {sessions} sessions that wait")
