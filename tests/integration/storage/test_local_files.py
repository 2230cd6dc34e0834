"""A storage root on a local disk: what reaches the disk in which order, and disks that fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from akool_dagster.storage import OsFiles, StorageError, StorageRoot
from tests.integration.storage.helpers import RELATIVE, files_below, put, put_looked


class RecordingFiles(OsFiles):
    """Notes what reaches the disk in which order, and fails where told to."""

    def __init__(self, fail_at: str = "", error: int = errno.ENOSPC) -> None:
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._error = error

    def _note(self, call: str, path: Path) -> None:
        name = "temporary" if path.name.endswith(".partial") else path.name
        self.calls.append(f"{call} {name}")
        if self.calls[-1] == self._fail_at:
            raise OSError(self._error, os.strerror(self._error))

    def open(self, path: Path, mode: str) -> BinaryIO:
        self._note("open", path)
        return super().open(path, mode)

    def fsync(self, path: Path) -> None:
        self._note("fsync", path)
        super().fsync(path)

    def replace(self, source: Path, target: Path) -> None:
        self._note("replace", target)
        super().replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._note("link", target)
        super().link(source, target)


def test_the_content_is_durable_before_the_name_and_the_name_before_the_return(tmp_path: Path) -> None:
    files = RecordingFiles()
    put(StorageRoot(str(tmp_path), files=files), b"content", "day/a.mp4")
    assert files.calls == [f"fsync {tmp_path.name}", "fsync temporary", "replace a.mp4", "fsync day"]


def test_a_created_file_is_durable_before_it_has_its_name_also_when_another_was_faster(tmp_path: Path) -> None:
    files = RecordingFiles()
    root = StorageRoot(str(tmp_path), files=files)
    for is_first in (True, False):
        assert root.create("a.json", b"content") is is_first
        assert files.calls == ["open temporary", "fsync temporary", "link a.json", f"fsync {tmp_path.name}"]
        assert files_below(tmp_path) == ["a.json"]
        files.calls.clear()


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_will_do(tmp_path: Path, error: int) -> None:
    root = StorageRoot(str(tmp_path), files=RecordingFiles("link a.json", error))
    put_looked(root, b"first", "a.json")
    assert not root.create("a.json", b"second")
    assert root.read_bytes("a.json") == b"first"
    assert root.remove("a.json")
    assert root.create("a.json", b"third")
    assert files_below(tmp_path) == ["a.json"]


class AnswerLost(OsFiles):
    """Makes a hard link, then says what NFS says when it is asked again because its first answer was lost."""

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        super().link(source, target)


def test_a_link_that_was_made_although_the_file_system_denies_it_is_ours(tmp_path: Path) -> None:
    assert StorageRoot(str(tmp_path), files=AnswerLost()).create("a.json", b"content")
    assert files_below(tmp_path) == ["a.json"]


def test_a_broken_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    place.symlink_to(tmp_path / "nowhere")
    put_looked(StorageRoot(str(tmp_path)), b"content", "a.json")
    assert (place.is_symlink(), place.read_bytes()) == (False, b"content")


@pytest.mark.parametrize("step", ["fsync temporary", "replace 2025-10-09.parquet"])
def test_a_full_disk_leaves_the_old_file_and_no_half_one(step: str, tmp_path: Path) -> None:
    put(StorageRoot(str(tmp_path)), b"old")
    with pytest.raises(StorageError, match=r"2025-10-09\.parquet: No space left on device \([0-9.]+ MB are free\)"):
        put(StorageRoot(str(tmp_path), files=RecordingFiles(step)), b"new")
    assert files_below(tmp_path) == [RELATIVE]
    assert StorageRoot(str(tmp_path)).read_bytes(RELATIVE) == b"old"


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path), files=RecordingFiles("fsync results", errno.EINVAL))
    put(root, b"content")
    assert root.read_bytes(RELATIVE) == b"content"


def test_a_root_that_is_a_file_is_an_error_with_path_and_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    root = StorageRoot(str(tmp_path / "file"))
    with pytest.raises(StorageError, match=f"{tmp_path}/file/akool"):
        put(root, b"content")
    assert not root.exists(RELATIVE)


def test_an_unreadable_file_is_an_error_with_path_and_cause(tmp_path: Path) -> None:
    put(StorageRoot(str(tmp_path)), b"content")
    root = StorageRoot(str(tmp_path), files=RecordingFiles("open 2025-10-09.parquet", errno.EACCES))
    with pytest.raises(StorageError, match=r"2025-10-09\.parquet: Permission denied"):
        root.read_bytes(RELATIVE)
