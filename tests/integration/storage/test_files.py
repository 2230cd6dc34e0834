from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from akool_dagster.storage import NOTHING, ChangedMeanwhileError, Found, OsFiles, StorageError, StorageRoot
from tests.clock import FakeClock

pytestmark = pytest.mark.usefixtures("system_temporary_folder")

pytest_plugins = ["tests.integration.object_stores"]

RELATIVE = "akool/results/2025-10-09.parquet"


@pytest.fixture(params=["local", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty storage root of every kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("object_store").url)
    return {"local": str(tmp_path / "root"), "file": f"file://{tmp_path}/root"}[request.param]


@pytest.fixture
def root(url: str) -> StorageRoot:
    return StorageRoot(url)


def test_the_files_of_a_folder_are_listed_without_its_folders(root: StorageRoot) -> None:
    assert root.list_files("akool/results") == []
    for relative in ("akool/results/b.parquet", "akool/results/a.parquet", "akool/results/day/c.mp4"):
        put(root, b"x", relative)
    assert root.list_files("akool/results") == ["a.parquet", "b.parquet"]
    assert root.list_files("akool/results/a.parquet/no-folder") == []


def put(root: StorageRoot, content: bytes, relative: str = RELATIVE, *, replacing: Found | None = None) -> None:
    with root.temporary(relative) as path:
        path.write_bytes(content)
        root.publish(path, relative, replacing=replacing)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_published_file_reads_back(root: StorageRoot) -> None:
    put(root, b"content")
    assert root.exists(RELATIVE)
    assert root.size(RELATIVE) == 7
    assert root.read_if_there(RELATIVE) == root.read_bytes(RELATIVE) == b"content"


@pytest.mark.parametrize("sizes", [(14, 3), (3, 14), (0, 3), (3, 0), (17 * 2**20, 3), (3, 17 * 2**20)], ids=str)
def test_publishing_again_replaces_the_file(sizes: tuple[int, int], root: StorageRoot) -> None:
    old, new = (os.urandom(size) for size in sizes)
    put(root, old)
    put(root, new)
    assert root.size(RELATIVE) == len(new)
    assert root.read_bytes(RELATIVE) == new


def test_what_was_looked_at_is_replaced(root: StorageRoot) -> None:
    for content in (b"first", b"second"):
        with root.temporary(RELATIVE) as path:
            path.write_bytes(content)
            root.publish(path, RELATIVE, replacing=root.look(RELATIVE))
        assert root.read_bytes(RELATIVE) == content


def test_what_another_process_publishes_is_seen_at_once(url: str) -> None:
    ours, theirs = StorageRoot(url), StorageRoot(url)
    assert not ours.exists(RELATIVE)
    for content in (b"first", b"second, longer"):
        put(theirs, content)
        assert ours.size(RELATIVE) == len(content)
        assert ours.read_bytes(RELATIVE) == content


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/x", "a//b", ""])
def test_no_path_leads_out_of_the_root(relative: str, root: StorageRoot, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    attempts: list[Callable[[], object]] = [
        lambda: root.exists(relative),
        lambda: root.read_bytes(relative),
        lambda: root.publish(file, relative),
        lambda: root.temporary(relative).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="not a path below the storage root"):
            attempt()


def test_a_file_that_is_not_there_is_not_there(root: StorageRoot) -> None:
    assert not root.exists(RELATIVE)
    assert root.read_if_there(RELATIVE) is None
    for read in (root.size, root.read_bytes):
        with pytest.raises(StorageError, match=r"2025-10-09\.parquet"):
            read(RELATIVE)


def test_nothing_is_visible_before_publishing_or_after_giving_up(root: StorageRoot) -> None:
    with pytest.raises(RuntimeError), root.temporary(RELATIVE) as path:
        path.write_bytes(b"half")
        assert not root.exists(RELATIVE)
        raise RuntimeError
    assert not path.exists()
    assert not root.exists(RELATIVE)


def test_a_local_temporary_file_is_hidden_in_the_destination_folder_under_a_new_name(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path))
    with root.temporary(RELATIVE) as first, root.temporary(RELATIVE) as second:
        assert first.parent == second.parent == tmp_path / "akool/results"
        assert first.name.startswith(".2025-10-09.parquet.")
        assert first != second


def test_a_file_from_another_folder_is_not_moved_in(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"content")
    with pytest.raises(StorageError, match="temporary"):
        StorageRoot(str(tmp_path / "root")).publish(elsewhere, RELATIVE)
    assert elsewhere.exists()


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
    put(StorageRoot(str(tmp_path), files=files), b"content")
    assert files.calls == [
        f"fsync {tmp_path.name}",
        "fsync akool",
        "fsync temporary",
        "replace 2025-10-09.parquet",
        "fsync results",
    ]


def test_a_file_where_nothing_was_is_refused_when_something_is_there_by_now(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path))
    found = root.look(RELATIVE)
    put(root, b"faster", replacing=found)
    with pytest.raises(
        ChangedMeanwhileError, match=r"2025-10-09\.parquet: another run wrote it meanwhile, which stays"
    ):
        put(root, b"slower", replacing=found)
    assert root.read_bytes(RELATIVE) == b"faster"
    assert files_below(tmp_path) == [RELATIVE]
    put(root, b"newer", replacing=root.look(RELATIVE))
    assert root.read_bytes(RELATIVE) == b"newer"


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_will_do(tmp_path: Path, error: int) -> None:
    root = StorageRoot(str(tmp_path), files=RecordingFiles("link 2025-10-09.parquet", error))
    put(root, b"content", replacing=root.look(RELATIVE))
    assert root.read_bytes(RELATIVE) == b"content"
    assert files_below(tmp_path) == [RELATIVE]


class AnswerLost(OsFiles):
    """Makes a hard link, then says what NFS says when it is asked again because its first answer was lost."""

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        super().link(source, target)


def test_a_link_that_was_made_although_the_file_system_denies_it_is_ours(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path), files=AnswerLost())
    put(root, b"content", replacing=root.look(RELATIVE))
    assert root.read_bytes(RELATIVE) == b"content"
    assert files_below(tmp_path) == [RELATIVE]


def test_a_broken_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path))
    place = tmp_path / RELATIVE
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "nowhere")
    put(root, b"content", replacing=root.look(RELATIVE))
    assert (place.is_symlink(), place.read_bytes()) == (False, b"content")


@pytest.mark.parametrize("step", ["fsync temporary", "replace 2025-10-09.parquet"])
def test_a_full_disk_leaves_the_old_file_and_no_half_one(step: str, tmp_path: Path) -> None:
    put(StorageRoot(str(tmp_path)), b"old")
    before = files_below(tmp_path)
    with pytest.raises(StorageError, match=r"2025-10-09\.parquet: No space left on device"):
        put(StorageRoot(str(tmp_path), files=RecordingFiles(step)), b"new")
    assert files_below(tmp_path) == before
    assert StorageRoot(str(tmp_path)).read_bytes(RELATIVE) == b"old"


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path), files=RecordingFiles("fsync results", errno.EINVAL))
    put(root, b"content")
    assert root.read_bytes(RELATIVE) == b"content"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_error_while_writing_names_the_folder_and_the_cause(error: int, root: StorageRoot) -> None:
    with pytest.raises(StorageError, match=os.strerror(error)), root.temporary(RELATIVE) as path:
        path.write_bytes(b"half")
        raise OSError(error, os.strerror(error))
    assert not path.exists()


def test_an_error_of_the_network_while_writing_stays_what_it_is(root: StorageRoot) -> None:
    with pytest.raises(ConnectionResetError), root.temporary(RELATIVE):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


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


def test_only_what_nobody_writes_any_more_is_cleaned_up(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path / "root"))
    clock = FakeClock()
    put(root, b"content", "day/a.mp4")
    folder = tmp_path / "root/day"
    names = {".a.mp4.1.partial": 901, ".a.mp4.2.partial": 899, ".hidden": 10_000, "b.partial": 10_000}
    for name, age in names.items():
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (0, clock.now_ms() / 1000 - age))
    assert root.remove_stale_temporaries("day", 900, clock) == 1
    assert files_below(folder) == [".a.mp4.2.partial", ".hidden", "a.mp4", "b.partial"]


def test_a_folder_that_is_not_there_needs_no_cleaning(root: StorageRoot) -> None:
    assert root.remove_stale_temporaries("nowhere", 0, FakeClock()) == 0


def test_a_remote_root_s_leftovers_are_in_the_system_s_temporary_folder(system_temporary_folder: Path) -> None:
    root = StorageRoot("s3://bucket/leftovers")
    clock = FakeClock()
    with root.temporary(RELATIVE) as path:
        path.write_bytes(b"half")
        assert path.parent == system_temporary_folder
        os.utime(path, (0, clock.now_ms() / 1000 - 901))
        assert root.remove_stale_temporaries("day", 900, clock) == 1


# A copy to read from


@pytest.mark.parametrize("size", [0, 7, 17 * 2**20], ids=str)
def test_a_copy_has_the_content_that_it_names(size: int, root: StorageRoot) -> None:
    content = os.urandom(size)
    put(root, content)
    with root.local_copy(RELATIVE) as opened:
        assert opened is not None
        file, found = opened
        put(root, b"newer")
        assert file.read() == content
        assert found.size == size


def test_there_is_no_copy_of_nothing(root: StorageRoot) -> None:
    with root.local_copy(RELATIVE) as opened:
        assert opened is None


def test_a_copy_can_be_replaced_by_what_was_made_from_it(root: StorageRoot) -> None:
    put(root, b"old")
    with root.local_copy(RELATIVE) as opened:
        assert opened is not None
        put(root, opened[0].read() + b" and new", replacing=opened[1])
    assert root.read_bytes(RELATIVE) == b"old and new"


def test_an_error_of_the_reader_stays_what_it_is(root: StorageRoot) -> None:
    put(root, b"old")
    with pytest.raises(FileNotFoundError, match="another"), root.local_copy(RELATIVE):
        raise FileNotFoundError("another")


# Creating and removing


def test_a_file_is_created_once(root: StorageRoot) -> None:
    assert root.create(RELATIVE, b"first")
    assert not root.create(RELATIVE, b"second")
    assert root.read_bytes(RELATIVE) == b"first"
    assert root.list_files("akool/results") == ["2025-10-09.parquet"]


def test_a_created_file_is_durable_before_it_has_its_name(tmp_path: Path) -> None:
    files = RecordingFiles()
    assert StorageRoot(str(tmp_path), files=files).create("a.json", b"content")
    assert files.calls == ["open temporary", "fsync temporary", "link a.json", f"fsync {tmp_path.name}"]
    assert files_below(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_creates_once_too(tmp_path: Path, error: int) -> None:
    root = StorageRoot(str(tmp_path), files=RecordingFiles("link a.json", error))
    assert [root.create("a.json", b"first"), root.create("a.json", b"second")] == [True, False]
    assert root.read_bytes("a.json") == b"first"
    assert files_below(tmp_path) == ["a.json"]


def test_of_eight_threads_that_create_a_file_one_does(root: StorageRoot) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: root.create(RELATIVE, bytes([number])), range(8)))
    assert done.count(True) == 1
    assert root.read_bytes(RELATIVE) == bytes([done.index(True)])


def test_a_removed_file_is_gone_and_nothing_is_not_removed(root: StorageRoot) -> None:
    put(root, b"content")
    assert [root.remove(RELATIVE), root.remove(RELATIVE)] == [True, False]
    assert root.look(RELATIVE) == NOTHING


def test_a_temporary_file_can_be_published_under_another_name_of_its_folder(root: StorageRoot) -> None:
    with root.temporary("day/a.mp4") as path:
        path.write_bytes(b"refused")
        root.publish(path, "day/a.unverified")
    assert root.list_files("day") == ["a.unverified"]
    assert root.read_bytes("day/a.unverified") == b"refused"
