"""What can go wrong with a ledger in PostgreSQL, and what it looks like then: no raw driver error, no endless wait."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import AccountLedger, JobLedger, LedgerMissingError, LedgerUnavailableError, LedgerUrlError
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.postgres import LOCK, bound_transaction
from akool_dagster.ledger.rows import locked_jobs
from tests.integration.ledger.helpers import (
    ACCOUNT,
    WRITES,
    answered,
    claimed_ids,
    complete,
    execute,
    record,
    track,
)
from tests.integration.ledger.sides import (
    IMPATIENT_SECONDS,
    LONGEST_SECONDS,
    Side,
    held_before,
    side,
    uncommitted,
    wait_until_waiting,
)

pytest_plugins = ["tests.integration.ledger_databases"]


@pytest.fixture
def new_database(new_schema: Callable[[], str]) -> Callable[[], str]:
    """Give a function that returns the URL of a new, empty schema."""
    return new_schema


@pytest.fixture
def empty_url(new_schema: Callable[[], str]) -> str:
    """Give the URL of an empty schema."""
    return new_schema()


@pytest.fixture
def before_each_update(ledger_url: str) -> Iterator[Callable[[str], None]]:
    """Give a function that lets each change of a job do something first, until the test ends."""

    def let(statement: str) -> None:
        execute(
            ledger_url,
            f"CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NEW; END $$",
            "CREATE TRIGGER trouble BEFORE UPDATE ON akool_jobs FOR EACH ROW EXECUTE FUNCTION trouble()",
        )

    yield let
    # The server may still be ending the transaction that fired the trigger.
    execute(ledger_url, "SET lock_timeout = '5s'; DROP FUNCTION IF EXISTS trouble CASCADE")


def end_other_sessions(one: Side) -> None:
    """End every other session of this ledger's processes, as a server that restarts does."""
    query = sa.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = :name")
    engine = sa.create_engine(one.database.url.update_query_dict({"application_name": "the end"}))
    with engine.connect() as connection:
        ended = connection.execute(query, {"name": one.database.url.query["application_name"]}).scalars().all()
    engine.dispose()
    assert ended
    assert all(ended)


def setting(connection: sa.Connection, name: str) -> str:
    """Return a setting of this session as it stands now."""
    return str(connection.execute(sa.text("SELECT current_setting(:name)"), {"name": name}).scalar_one())


@pytest.mark.parametrize("words", ["UPDATE akool_ledger", "UPDATE akool_jobs", "INSERT INTO akool_hours"])
def test_a_connection_that_dies_in_the_middle_leaves_nothing_half_written(one: Side, words: str) -> None:
    track(one.account, "a", "b")
    before = list(one.account.jobs())
    with held_before(one, words, lambda: record(one.account, answered("a", 4), answered("b", 4))) as recording:
        end_other_sessions(one)
    with pytest.raises(LedgerUnavailableError, match="cannot be used now"):
        recording.result()
    assert list(one.account.jobs()) == before
    assert record(one.account, answered("a", 4), answered("b", 4)).failed == 2


def test_a_connection_that_died_while_nobody_used_it_is_replaced_unnoticed(one: Side) -> None:
    track(one.account, "a")
    end_other_sessions(one)
    assert claimed_ids(one.account) == ["a"]


def test_a_server_that_holds_the_line_and_says_nothing_is_given_up(
    ledger: JobLedger, ledger_url: str, one: Side, request: pytest.FixtureRequest
) -> None:
    if os.environ.get("AKOOL_TEST_POSTGRES_DSN"):
        pytest.skip("only a process of the server that the tests started is stopped")
    track(one.account, "a")
    with side(ledger_url, answer_timeout=1.0) as waiting:
        with waiting.database.read() as connection:
            backend = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        request.addfinalizer(lambda: os.kill(backend, signal.SIGCONT))
        os.kill(backend, signal.SIGSTOP)
        with pytest.raises(LedgerUnavailableError, match="did not answer within 1 s"):
            complete(waiting.account, "a")
        assert claimed_ids(waiting.account) == ["a"]  # on a new connection


def _lets_in_and_falls_silent(server: socket.socket, question: threading.Event) -> None:
    """Speak PostgreSQL's protocol up to the first question, and then no more."""
    connection, _ = server.accept()
    with connection:
        (length,) = struct.unpack("!I", connection.recv(4))
        connection.recv(length)
        told = b"".join(
            b"S" + struct.pack("!I", len(text) + 4) + text
            for text in (b"server_version\x0016.0\x00", b"client_encoding\x00UTF8\x00", b"DateStyle\x00ISO, MDY\x00")
        )
        welcome = b"R" + struct.pack("!II", 8, 0) + told + b"K" + struct.pack("!III", 12, 1, 2)
        connection.sendall(welcome + b"Z" + struct.pack("!I", 5) + b"I")
        while connection.recv(1024):
            question.set()


def test_a_server_that_lets_us_in_and_then_says_nothing_is_given_up(threads: ThreadPoolExecutor) -> None:
    question = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = threads.submit(_lets_in_and_falls_silent, server, question)
        url = f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/jobs?sslmode=disable&gssencmode=disable"
        database = Database(url, answer_timeout=0.3)
        with pytest.raises(LedgerUnavailableError, match="did not answer within"):
            database.version()
        database.close()
        silent.result(LONGEST_SECONDS)
    assert question.is_set()


def test_work_that_takes_the_server_too_long_is_ended(
    account: AccountLedger, ledger_url: str, before_each_update: Callable[[str], None]
) -> None:
    track(account, "a")
    before_each_update("PERFORM pg_sleep(60)")
    with (
        side(ledger_url, answer_timeout=0.2) as hasty,
        pytest.raises(LedgerUnavailableError, match=r"statement timeout|did not answer within 0\.2 s"),
    ):
        record(hasty.account, answered("a", 4))


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014", "57P01", "53100", "42501"])
def test_trouble_of_the_servers_is_reported_as_such_and_leaves_nothing_half_written(
    account: AccountLedger, before_each_update: Callable[[str], None], code: str
) -> None:
    track(account, "a", "b")
    before = list(account.jobs())
    before_each_update(f"IF NEW._id = 'b' THEN RAISE EXCEPTION 'so it is' USING ERRCODE = '{code}'; END IF")
    with pytest.raises(LedgerUnavailableError, match="cannot be used now: so it is"):
        record(account, answered("a", 4), answered("b", 4))
    assert list(account.jobs()) == before


def test_a_database_that_isolates_more_than_is_asked_changes_nothing(
    ledger: JobLedger, ledger_url: str, threads: ThreadPoolExecutor
) -> None:
    with side(ledger_url, options="-cdefault_transaction_isolation=serializable") as one:
        track(one.account, "a", "b")
        with uncommitted(one, lambda: record(one.account, answered("a", 4))):
            second = threads.submit(record, one.account, answered("b", 4))
            wait_until_waiting(one)
        assert second.result(LONGEST_SECONDS).failed == 1


def test_the_bounds_of_a_transaction_end_with_it(one: Side) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with one.database.write() as connection:
        assert [setting(connection, name) for name in names] == [f"{LONGEST_SECONDS:g}s"] * 3
    with one.database.engine.connect() as connection:  # a pooler may give the session to anybody
        assert [setting(connection, name) for name in names] == ["0"] * 3


@pytest.mark.parametrize(("default", "ours"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
def test_a_commit_lasts_from_its_acknowledgement_on_whatever_the_servers_default(
    ledger_url: str, default: str, ours: str
) -> None:
    url = sa.make_url(ledger_url)
    options = f"{url.query.get('options', '')} -csynchronous_commit={default}"
    database = Database(url.update_query_dict({"options": options}).render_as_string(hide_password=False))
    with database.write() as connection:
        assert setting(connection, "synchronous_commit") == ours
    with database.engine.connect() as connection:
        assert setting(connection, "synchronous_commit") == default
    database.close()


def test_a_client_that_stands_still_in_a_transaction_loses_its_locks(one: Side, ledger_url: str) -> None:
    track(one.account, "a")
    engine = sa.create_engine(ledger_url, poolclass=sa.NullPool)
    with engine.connect() as stopped:
        bound_transaction(stopped, LONGEST_SECONDS, 0.5)
        assert len(locked_jobs(stopped, ACCOUNT, ["a"])) == 1
        assert record(one.account, answered("a", 3)).completed == 1
        with pytest.raises(sa.exc.OperationalError, match=r"idle-in-transaction timeout|closed the connection"):
            stopped.execute(sa.text("SELECT 1"))


def test_a_ledger_being_created_is_waited_for(empty_url: str, threads: ThreadPoolExecutor) -> None:
    execute_lock = sa.select(sa.func.pg_advisory_xact_lock(LOCK))
    with side(empty_url) as creator:
        url = creator.database.url.render_as_string(hide_password=False)
        with creator.database.write() as connection:
            connection.execute(execute_lock)
            creating = [threads.submit(JobLedger.create, url) for _ in range(2)]
            wait_until_waiting(creator, 2)
            with pytest.raises(LedgerUnavailableError, match="lock timeout"):
                JobLedger.create(url, busy_timeout=IMPATIENT_SECONDS)
        created = [future.result(LONGEST_SECONDS) for future in creating]
    ids = {ledger.ledger_id for ledger in created}
    for ledger in created:
        ledger.close()
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ("-crole=pg_read_all_data", "permission denied for schema ledger_"),
        ("-csearch_path=nowhere", "may use no schema of its search_path"),
        ("-cdefault_transaction_read_only=on", "read-only transaction"),
    ],
)
def test_a_role_that_may_create_nothing_is_told_so(empty_url: str, options: str, cause: str) -> None:
    with (
        side(empty_url, options=options) as limited,
        pytest.raises(LedgerUnavailableError, match=f"cannot be used now: .*{cause}"),
    ):
        limited.database.create_or_upgrade(0)
    with pytest.raises(LedgerMissingError):
        JobLedger.open(empty_url)


def test_a_role_that_may_not_use_the_schema_is_not_told_that_there_is_no_ledger(
    ledger: JobLedger, ledger_url: str
) -> None:
    with (
        side(ledger_url, options="-crole=pg_monitor") as stranger,
        pytest.raises(LedgerUnavailableError, match=r"may use no schema.* GRANT USAGE ON SCHEMA"),
    ):
        stranger.database.require()


def test_an_option_of_another_driver_is_an_error_of_the_url(ledger_url: str) -> None:
    url = sa.make_url(ledger_url).update_query_dict({"ssl": "s3cret"}).render_as_string(hide_password=False)
    with pytest.raises(LedgerUrlError, match='invalid connection option "ssl"') as caught:
        JobLedger.open(url)
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize(("first", "second"), list(combinations_with_replacement(WRITES, 2)))
def test_no_two_writers_wait_for_each_other(
    four: Side, other: Side, threads: ThreadPoolExecutor, first: str, second: str
) -> None:
    with four.database.write() as connection:  # both meet at the job that the other would lock last, or first
        locked_jobs(connection, ACCOUNT, ["a", "c"])
        works = [threads.submit(WRITES[name], one.account) for name, one in ((first, four), (second, other))]
        wait_until_waiting(four, 2)
    assert [work.exception(LONGEST_SECONDS) for work in works] == [None, None]
