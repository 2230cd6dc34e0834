from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from akool_dagster.base.clock import SystemClock
from akool_dagster.storage import StorageError, StorageRoot, UnsupportedStorageError
from tests.clock import FakeClock

LOCK = "akool/results/.2025-10-09.lock"

HOLDER = """
import sys
from akool_dagster.base.clock import SystemClock
from akool_dagster.storage import StorageRoot
with StorageRoot(sys.argv[1]).lock(sys.argv[2], seconds=1, clock=SystemClock()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path))


def held_elsewhere(root: StorageRoot) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root.uri(), LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_another_process_has_is_waited_for_within_bounds(root: StorageRoot) -> None:
    clock = FakeClock()
    with held_elsewhere(root) as process:
        with (
            pytest.raises(StorageError, match=r"has held .*/\.2025-10-09\.lock for 7 s"),
            root.lock(LOCK, seconds=7, clock=clock),
        ):
            pass
        assert sum(clock.sleeps) == pytest.approx(7)
        process.kill()
    with root.lock(LOCK, seconds=0, clock=clock):
        assert Path(root.uri(LOCK)).exists()


def test_only_one_thread_at_a_time_has_a_lock(root: StorageRoot) -> None:
    inside, most = [0], [0]
    start = threading.Barrier(4)

    def work(_: int) -> None:
        start.wait()
        for _ in range(5):
            with root.lock(LOCK, seconds=60, clock=SystemClock()):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                os.sched_yield()
                inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == [1]


def test_a_lock_is_given_back_when_the_block_fails_and_its_file_stays(root: StorageRoot) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), root.lock(LOCK, seconds=0, clock=FakeClock()):
            raise RuntimeError
    assert list(Path(root.uri(LOCK)).parent.iterdir()) == [Path(root.uri(LOCK))]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused(root: StorageRoot, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UnsupportedStorageError, match="has no locks between processes"),
        root.lock(LOCK, seconds=1, clock=FakeClock()),
    ):
        pass


def test_object_storage_needs_no_lock() -> None:
    root = StorageRoot("s3://bucket/folder")
    with root.lock(LOCK, seconds=0, clock=FakeClock()), root.lock(LOCK, seconds=0, clock=FakeClock()):
        pass
