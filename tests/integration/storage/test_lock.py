"""The lock of a storage root on a local disk, between processes and threads."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from akool_dagster.storage import StorageError, StorageRoot, UnsupportedStorageError
from tests.clock import FakeClock
from tests.integration.storage.helpers import files_below

LOCK = "akool/results/.2025-10-09.lock"


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path))


def test_a_lock_that_another_has_is_waited_for_within_bounds(root: StorageRoot, tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / LOCK).parent.mkdir(parents=True)
    with (tmp_path / LOCK).open("w") as file:  # the kernel closes it when a process is killed
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(StorageError, match=r"has held .*/\.2025-10-09\.lock for 7 s"),
            root.lock(LOCK, seconds=7, clock=clock),
        ):
            pass
        assert sum(clock.sleeps) == pytest.approx(7)
    with root.lock(LOCK, seconds=0, clock=clock), (tmp_path / LOCK).open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_is_given_back_when_the_block_fails_and_its_file_stays(root: StorageRoot, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), root.lock(LOCK, seconds=0, clock=FakeClock()):
            raise RuntimeError
    assert files_below(tmp_path) == [LOCK]


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
