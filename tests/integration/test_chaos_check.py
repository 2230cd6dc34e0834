"""The check of the crash test must find what it is there to find: homes that are doctored, one thing each."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from akool_dagster.emulator import AkoolEmulator
from tests.deployment import API_KEY, Deployment, emulated, object_id, quiet_instance
from tests.e2e.chaos.check import Evidence, ask_akool, examine
from tests.e2e.chaos.databases import SqliteLedger
from tests.e2e.chaos.findings import Harm
from tests.e2e.chaos.watcher import Watcher

STALE_SECONDS = 60.0
NOON = 1_760_000_400  # 2025-10-09, 09:00 UTC
DAY = "2025-10-09"
ONE, TWO, FAILED, OTHER_DAY = (
    object_id(second, serial) for serial, second in enumerate((NOON, NOON + 1, NOON + 2, NOON + 86_400))
)
SECRET = "MARKED-SECRET"
PASSWORD = "MARKED-PASSWORD"

LATER = 2**60
"""A version above every one there is."""


@dataclass(frozen=True)
class Home:
    """A settled deployment, or a copy of it."""

    folder: Path
    emulator: AkoolEmulator
    instance: dg.DagsterInstance
    """Of the settled deployment: opening a copy's takes long, and few tests doctor it."""

    @property
    def tables(self) -> Path:
        return self.folder / "storage" / "akool"

    def table(self, name: str) -> Path:
        return self.tables / name / f"{DAY}.parquet"

    def video(self, job_id: str) -> Path:
        return self.tables / "videos" / DAY / f"{job_id}.mp4"


@dataclass(frozen=True)
class Request:
    method: str = "POST"
    path: str = "/api/open/v4/image2Video/resultsByIds"
    endpoint: str = "resultsByIds"
    auth_headers: tuple[str, ...] = ("x-api-key",)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Four jobs of two days that have landed; one of them failed."""
    folder = tmp_path_factory.mktemp("home")
    jobs = [
        emulated(job_id, outcome="failed" if job_id == FAILED else "completed", url_lifetime_seconds=1e9)
        for job_id in (ONE, TWO, FAILED, OTHER_DAY)
    ]
    with AkoolEmulator(jobs=jobs) as emulator, quiet_instance(folder / "dagster") as instance:
        deployment = Deployment(folder, emulator, instance)
        deployment.track(ONE, TWO, FAILED, OTHER_DAY, campaign="spring")
        deployment.settle()
        yield Home(folder, emulator, instance)


@pytest.fixture
def home(settled: Home, tmp_path: Path) -> Home:
    """A copy to doctor."""
    shutil.copytree(settled.folder, tmp_path / "copy")
    return replace(settled, folder=tmp_path / "copy")


@pytest.fixture
def home_with_event_log(home: Home) -> Iterator[Home]:
    """A copy whose event log may be doctored too."""
    with quiet_instance(home.folder / "dagster") as instance:
        yield replace(home, instance=instance)


def harms(home: Home, journal: Sequence[Request] | None = None) -> set[tuple[Harm, str]]:
    """Examine a home and return the harms that were found, each in words."""
    evidence = Evidence(
        home=home.folder,
        ledger=SqliteLedger(home.folder / "ledger.sqlite"),
        tables=home.tables,
        instance=home.instance,
        labels={job_id: {"campaign": "spring"} for job_id in (ONE, TWO, FAILED, OTHER_DAY)},
        truth=ask_akool(home.emulator.base_url, API_KEY, [ONE, TWO, FAILED, OTHER_DAY]),
        video_of=home.emulator.video_bytes,
        journal=home.emulator.journal.requests if journal is None else journal,
        secrets={"API key": SECRET, "ledger's password": PASSWORD},
        stale_seconds=STALE_SECONDS,
    )
    return {(finding.harm, finding.what) for finding in examine(evidence)}


def rewritten(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(file)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file, compression="zstd")


def without(job_id: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.filter(pc.not_equal(table["_id"], job_id))


def with_value(column: str, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        field = table.schema.field(index)
        return table.set_column(index, field, pa.array([value] * table.num_rows, field.type))

    return change


def truncate(file: Path, share: float) -> None:
    os.truncate(file, int(file.stat().st_size * share))


def leave_a_temporary_file(home: Home, age: float) -> None:
    temporary = home.tables / "results" / f".{DAY}.parquet.0123.partial"
    temporary.write_bytes(b"PAR1")
    newest = max(file.stat().st_mtime for file in temporary.parent.glob("[!.]*"))
    os.utime(temporary, (newest - age, newest - age))


def change_ledger(home: Home, statement: str) -> None:
    with closing(sqlite3.connect(home.folder / "ledger.sqlite")) as connection, connection:
        assert connection.execute(statement).rowcount > 0


def pack_a_snapshot(home: Home, snapshot: str) -> None:
    with closing(sqlite3.connect(home.folder / "dagster" / "history" / "runs.db")) as connection, connection:
        row = ("doctored", zlib.compress(snapshot.encode()), "PIPELINE")
        connection.execute("INSERT INTO snapshots (snapshot_id, snapshot_body, snapshot_type) VALUES (?, ?, ?)", row)


def test_a_sound_home_has_no_findings(home: Home) -> None:
    assert harms(home) == set()


DOCTORED: dict[str, tuple[Callable[[Home], object], Harm, str]] = {
    "a row removed": (lambda home: rewritten(home.table("credits"), without(ONE)), Harm.LOST, f"{ONE} has no row"),
    "a row doubled": (
        lambda home: rewritten(home.table("statuses"), lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        Harm.DOUBLED,
        f"{ONE} has 2 rows in statuses",
    ),
    "a partition doubled under another day": (
        lambda home: shutil.copy(home.table("results"), home.tables / "results" / "2025-10-11.parquet"),
        Harm.DOUBLED,
        f"{FAILED} has 2 rows in results",
    ),
    "a table file removed": (lambda home: home.table("durations").unlink(), Harm.LOST, f"{TWO} has no row"),
    "a table file cut short": (lambda home: truncate(home.table("results"), 0.6), Harm.PARTIAL, "no whole Parquet"),
    "a video cut short": (lambda home: truncate(home.video(ONE), 0.6), Harm.PARTIAL, f"{ONE}.mp4 is not what"),
    "a video removed": (lambda home: home.video(TWO).unlink(), Harm.LOST, f"{TWO} has no video file"),
    "a video doubled": (
        lambda home: shutil.copytree(home.video(ONE).parent, home.tables / "videos" / "2025-10-08"),
        Harm.DOUBLED,
        f"{ONE} has 2 video files",
    ),
    "another's video": (
        lambda home: home.video(ONE).write_bytes(home.video(ONE).read_bytes()[:-1] + b"!"),
        Harm.WRONG,
        f"{ONE}.mp4 is not what",
    ),
    "a stranger's file": (
        lambda home: (home.tables / "results" / "a.tmp").write_bytes(b""),
        Harm.WRONG,
        "does not belong there",
    ),
    "a temporary file that nobody removed": (
        lambda home: leave_a_temporary_file(home, STALE_SECONDS + 30),
        Harm.PARTIAL,
        ".partial was",
    ),
    "the secret in a log": (
        lambda home: (home.folder / "daemon.log").write_text(f"sent x-api-key: {SECRET}\n"),
        Harm.SECRET,
        "the API key is in daemon.log",
    ),
    "the secret in a compressed table": (
        lambda home: rewritten(home.table("results"), with_value("prompt", f"my key is {SECRET}, hush" * 9)),
        Harm.SECRET,
        "the API key is in storage/akool/results",
    ),
    "the ledger's password in a log": (
        lambda home: (home.folder / "command.log").write_text(f"postgresql://me:{PASSWORD}@db.example/jobs\n"),
        Harm.SECRET,
        "the ledger's password is in command.log",
    ),
    "the ledger's password in a snapshot that Dagster packed": (
        lambda home: pack_a_snapshot(home, f'{{"url": "postgresql://me:{PASSWORD}@db.example/jobs"}}'),
        Harm.SECRET,
        "the ledger's password is in dagster/history/runs.db",
    ),
    "the secret in the ledger": (
        lambda home: change_ledger(home, f"UPDATE akool_jobs SET last_error = 'sent {SECRET}' WHERE _id = '{ONE}'"),  # noqa: S608
        Harm.SECRET,
        "the API key is in the ledger's table akool_jobs",
    ),
    "another number of credits": (
        lambda home: rewritten(home.table("credits"), with_value("deduction_credit", 19.0)),
        Harm.WRONG,
        "deduction_credit is 19.0, not 20",
    ),
    "labels lost": (
        lambda home: rewritten(home.table("statuses"), with_value("labels", "{}")),
        Harm.WRONG,
        "labels are {}",
    ),
    "a manifest that lies": (
        lambda home: rewritten(home.table("videos"), with_value("sha256", "0" * 64)),
        Harm.WRONG,
        "sha256 is '000",
    ),
    "an id gone from the ledger": (
        lambda home: change_ledger(home, f"DELETE FROM akool_jobs WHERE _id = '{FAILED}'"),  # noqa: S608
        Harm.LOST,
        "the ledger does not know it",
    ),
    "a final job moved back": (
        lambda home: change_ledger(
            home,
            f"UPDATE akool_jobs SET state = 'pending', settled_at = NULL, video_state = NULL WHERE _id = '{ONE}'",  # noqa: S608
        ),
        Harm.WRONG,
        f"{ONE} is pending in the ledger, not completed",
    ),
    "a change that never landed": (
        lambda home: change_ledger(home, f"UPDATE akool_hours SET tables_version = {LATER}"),  # noqa: S608
        Harm.LOST,
        f"not at {LATER}",
    ),
    "a file that a verifier refused, beside the verified one": (
        lambda home: shutil.copy(home.video(ONE), home.video(ONE).with_suffix(".unverified")),
        Harm.WRONG,
        f"{ONE}.unverified does not belong there",
    ),
}


@pytest.mark.parametrize("doctored", DOCTORED)
def test_a_doctored_home_is_found_out(home: Home, doctored: str) -> None:
    doctor, harm, words = DOCTORED[doctored]
    doctor(home)
    assert [what for found, what in harms(home) if found is harm and words in what]


def test_a_file_that_the_event_log_does_not_know_is_found_out(home_with_event_log: Home) -> None:
    home_with_event_log.instance.wipe_assets([dg.AssetKey(["akool", "credits"])])
    assert [what for harm, what in harms(home_with_event_log) if harm is Harm.LOST and f"credits of {DAY}" in what]


def test_a_temporary_file_of_a_moment_ago_is_no_finding(home: Home) -> None:
    leave_a_temporary_file(home, STALE_SECONDS - 30)
    assert harms(home) == set()


def test_a_call_that_costs_and_a_key_sent_to_the_cdn_are_found(home: Home) -> None:
    create = Request(path="/api/open/v4/image2Video/createBySourcePrompt", endpoint="")
    download = Request(method="GET", path="/cdn/1.mp4", endpoint="cdn")
    assert harms(home, journal=[Request()]) == set()
    assert harms(home, journal=[create]) == {(Harm.CALLED, f"POST {create.path} was called")}
    assert harms(home, journal=[download]) == {(Harm.SECRET, "x-api-key went to the CDN (/cdn/1.mp4)")}


@pytest.fixture
def watcher(home: Home) -> Watcher:
    watcher = Watcher(home.tables, home.emulator.video_bytes)
    watcher.look()
    assert watcher.looks == 2 * 5 + 3
    assert watcher.findings == set()
    return watcher


def test_what_is_only_replaced_by_newer_rows_is_no_finding_of_the_watcher(home: Home, watcher: Watcher) -> None:
    rewritten(home.table("results"), lambda table: table)
    watcher.look()
    assert watcher.looks == 2 * 5 + 4
    assert watcher.findings == set()


WATCHED: dict[str, tuple[Callable[[Home], object], Harm, str]] = {
    "an older table put back": (
        lambda home: pq.write_table(
            with_value("version", 1)(pq.read_table(home.table("credits"))),
            home.table("credits"),
        ),
        Harm.WENT_BACK,
        f"credits/{DAY}.parquet showed {ONE} at ",
    ),
    "a row that vanished": (
        lambda home: rewritten(home.table("durations"), without(TWO)),
        Harm.LOST,
        f"durations/{DAY}.parquet had a row of {TWO}",
    ),
    "a final job shown as pending": (
        lambda home: rewritten(home.table("statuses"), with_value("state", "pending")),
        Harm.WENT_BACK,
        f"showed {FAILED} as failed",
    ),
    "half a table": (lambda home: truncate(home.table("videos"), 0.5), Harm.PARTIAL, f"videos/{DAY}.parquet was seen"),
    "half a video": (lambda home: truncate(home.video(ONE), 0.5), Harm.PARTIAL, f"videos/{DAY}/{ONE}.mp4 was seen"),
    "a file that disappeared": (lambda home: home.video(TWO).unlink(), Harm.LOST, f"{TWO}.mp4 disappeared"),
}


@pytest.mark.parametrize("doctored", WATCHED)
def test_the_watcher_sees_what_is_wrong_only_for_a_moment(home: Home, watcher: Watcher, doctored: str) -> None:
    doctor, harm, words = WATCHED[doctored]
    doctor(home)
    watcher.look()
    assert [finding for finding in watcher.findings if finding.harm is harm and words in finding.what]
