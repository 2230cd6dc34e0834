"""What can be wrong with a ledger in a SQLite file, and what it looks like then."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from akool_dagster.ledger import JobLedger, LedgerMissingError, LedgerUnavailableError
from akool_dagster.ledger.schema import VERSION_TABLE
from tests.integration.ledger.helpers import ACCOUNT, answered, record, track

OPENERS = [JobLedger.open, JobLedger.create]

pytest_plugins = ["tests.integration.ledger_databases"]

Opener = Callable[[str], JobLedger]


@pytest.fixture
def file(sqlite_folder: Path) -> Path:
    """Give the path of a ledger that is not there yet."""
    return sqlite_folder / "home" / "ledger.sqlite"


@pytest.fixture
def url(file: Path) -> str:
    """Give the URL of that ledger."""
    return f"sqlite:///{file}"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep a database locked, as another program's long write does."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_opening_what_is_not_there_creates_nothing(file: Path, url: str) -> None:
    with pytest.raises(LedgerMissingError, match=r"no ledger at sqlite:.*ledger\.sqlite.*ledger init"):
        JobLedger.open(url)
    assert not file.parent.exists()


def test_a_ledger_lets_readers_and_a_writer_work_side_by_side(file: Path, url: str) -> None:
    with JobLedger.create(url, busy_timeout=0.05) as ledger:
        track(ledger.account(ACCOUNT), "a")
        with locked(file), JobLedger.open(url, busy_timeout=0.05) as other:
            assert [job.job_id for job in other.account(ACCOUNT).jobs()] == ["a"]


def test_a_restored_copy_gets_its_write_ahead_log_back(tmp_path: Path, url: str, file: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    JobLedger.create(url).close()
    with closing(sqlite3.connect(file)) as source:
        source.execute("VACUUM INTO ?", [str(copy)])
    JobLedger.open(f"sqlite:///{copy}").close()
    assert _journal_mode(copy) == "wal"


@pytest.mark.parametrize(
    ("content", "open_ledger"),
    [(b"", JobLedger.open), (b"no database\n" * 100, JobLedger.open), (b"no database\n" * 100, JobLedger.create)],
    ids=["an empty file", "a text", "a text, to create a ledger"],
)
def test_another_kind_of_file_is_refused_and_stays_as_it_was(
    file: Path, url: str, content: bytes, open_ledger: Opener
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(
        (LedgerMissingError, LedgerUnavailableError), match="holds no ledger" if not content else "not a"
    ):
        open_ledger(url)
    assert file.read_bytes() == content
    assert [found.name for found in file.parent.iterdir()] == [file.name]


def test_a_locked_ledger_says_so_and_works_again_afterwards(file: Path, url: str) -> None:
    with JobLedger.create(url, busy_timeout=0.05) as ledger:
        account = ledger.account(ACCOUNT)
        track(account, "a")
        before = list(account.jobs())
        with locked(file), pytest.raises(LedgerUnavailableError, match=r"ledger\.sqlite cannot be used now.*locked"):
            record(account, answered("a", 3))
        assert list(account.jobs()) == before
        assert record(account, answered("a", 3)).completed == 1


def test_creating_a_ledger_in_a_locked_database_says_so(file: Path, url: str) -> None:
    file.parent.mkdir()
    file.touch()
    with locked(file), pytest.raises(LedgerUnavailableError, match="locked"):
        JobLedger.create(url, busy_timeout=0.05)
    assert file.stat().st_size == 0


@pytest.mark.parametrize("open_ledger", OPENERS, ids=["open", "create"])
def test_a_ledger_that_may_not_be_written_is_refused_before_anything(
    file: Path, url: str, open_ledger: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    JobLedger.create(url).close()
    before = file.read_bytes()
    may_access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: may_access(path, mode) and not (path == file and mode & os.W_OK)
    )
    with pytest.raises(LedgerUnavailableError, match=r"cannot be written: no permission for .*ledger\.sqlite"):
        open_ledger(url)
    assert file.read_bytes() == before


@pytest.mark.parametrize("open_ledger", OPENERS, ids=["open", "create"])
def test_a_folder_that_may_not_be_entered_is_a_clear_error(
    url: str, open_ledger: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(LedgerUnavailableError, match=r"Permission denied.*ledger\.sqlite"):
        open_ledger(url)


def test_a_folder_that_cannot_be_made_is_a_clear_error(file: Path, url: str) -> None:
    file.parent.write_text("a file where the folder should be")
    with pytest.raises(LedgerUnavailableError, match=r"folder .*home cannot be made"):
        JobLedger.create(url)
    assert file.parent.read_text() == "a file where the folder should be"


def test_a_write_that_fails_half_way_leaves_nothing_of_it(file: Path, url: str) -> None:
    with JobLedger.create(url) as ledger:
        track(ledger.account(ACCOUNT), "a", "b")
        before = (list(ledger.account(ACCOUNT).jobs()), ledger.version())
        with closing(sqlite3.connect(file)) as other:
            other.execute(
                "CREATE TRIGGER full_disk BEFORE INSERT ON akool_hours "
                "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
        with pytest.raises(Exception, match="disk is full"):
            record(ledger.account(ACCOUNT), answered("a", 4), answered("b", 4))
        assert (list(ledger.account(ACCOUNT).jobs()), ledger.version()) == before


def test_nothing_is_left_open_or_lying_about(file: Path, url: str) -> None:
    with JobLedger.create(url) as ledger:
        track(ledger.account(ACCOUNT), "a")
    assert [found.name for found in file.parent.iterdir()] == [file.name]
    with closing(sqlite3.connect(file)) as other:
        assert other.execute(f"SELECT COUNT(*) FROM {VERSION_TABLE}").fetchall() == [(1,)]  # noqa: S608


def _journal_mode(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        return str(mode)
