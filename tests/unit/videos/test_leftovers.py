"""Which leftovers of killed runs are removed, and which files are left alone."""

from __future__ import annotations

import logging
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.http.bounds import LowSpeedLimit
from akool_dagster.ledger.leases import IDLE_SECONDS
from akool_dagster.ledger.records import LEASE_MS
from akool_dagster.storage import STALE_SECONDS, StorageRoot
from akool_dagster.videos.leftovers import MOST_FOLDERS, folders_to_clean, remove_leftovers
from tests.clock import FakeClock

FOLDER = "akool/videos"
DAYS = [(datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=number)).date().isoformat() for number in range(60)]
days = st.sets(st.sampled_from(DAYS), max_size=40)
moments = st.integers(min_value=0, max_value=2**47)


@given(days, days, moments)
def test_a_run_looks_into_a_few_folders_its_own_before_others(present: set[str], first: set[str], now_ms: int) -> None:
    chosen = folders_to_clean(present, first, now_ms)
    assert len(chosen) == len(set(chosen)) == min(MOST_FOLDERS, len(present))
    assert set(chosen) <= present
    wanted = sorted(first & present)[: MOST_FOLDERS // 2]
    assert chosen[: len(wanted)] == wanted


def test_every_folder_has_its_turn() -> None:
    never = set(DAYS)
    for minute in range(300):
        never -= set(folders_to_clean(DAYS, [], minute * 60_000))
    assert never == set()


def test_nothing_counts_as_left_that_a_live_lease_could_still_be_writing() -> None:
    assert STALE_SECONDS > IDLE_SECONDS + LEASE_MS / 1000
    assert LowSpeedLimit().seconds < STALE_SECONDS


def leave(path: Path, clock: FakeClock, age: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    written_at = clock.now_ms() / 1000 - age
    os.utime(path, (written_at, written_at))


def test_what_killed_runs_left_is_removed_and_what_cannot_be_removed_stops_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    root = StorageRoot(str(tmp_path))
    folder = tmp_path / FOLDER
    gone = [folder / "2025-10-09/.a.mp4.1.partial", folder / "2025-10-08/.b.mp4.2.partial"]
    kept = [
        folder / "2025-10-09/a.mp4",
        folder / "elsewhere/.c.mp4.3.partial",
        folder / ".2025-10-09.parquet.4.partial",
    ]
    for path in gone + kept:
        leave(path, clock, STALE_SECONDS + 1)
    being_written = folder / "2025-10-08/.d.mp4.5.partial"
    leave(being_written, clock, STALE_SECONDS - 1)
    stubborn = folder / "2025-10-09/.e.mp4.6.partial"
    stubborn.mkdir()  # which no `unlink` removes
    os.utime(stubborn, (0, 0))
    assert remove_leftovers(root, FOLDER, {"2025-10-09", "2025-10-10"}, clock) == 2
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*kept, being_written])
    assert stubborn.exists()


def test_a_remote_root_s_leftovers_are_removed_from_the_system_s_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clock = FakeClock()
    leave(tmp_path / ".akool-dagster.a.mp4.1.partial", clock, STALE_SECONDS + 1)
    leave(tmp_path / ".somebody-s.partial", clock, STALE_SECONDS + 1)
    assert remove_leftovers(StorageRoot("s3://leftovers"), FOLDER, set(), clock) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".somebody-s.partial"]


def test_folders_that_cannot_be_read_are_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert remove_leftovers(StorageRoot(str(tmp_path)), FOLDER, {"2025-10-09"}, FakeClock()) == 0  # no folder yet
    (tmp_path / FOLDER).mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert remove_leftovers(StorageRoot(str(tmp_path)), FOLDER, set(), FakeClock()) == 0
    assert f"{tmp_path}/{FOLDER}: Permission denied" in caplog.text
