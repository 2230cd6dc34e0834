from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from akool_dagster.ownership import LandedFile, Mark, OwnershipError, ensure_owner, refuse_going_back
from akool_dagster.storage import OsFiles, StorageError, StorageRoot

OURS, THEIRS = "ledger-1111", "ledger-2222"


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"))


def marker(root: StorageRoot) -> Path:
    return Path(root.uri("akool/ledger.json"))


# The marker


def test_a_new_root_is_marked(root: StorageRoot) -> None:
    ensure_owner(root, "akool", OURS, first=True)
    assert json.loads(marker(root).read_text()) == {"ledger": OURS}
    assert [path.name for path in marker(root).parent.iterdir()] == ["ledger.json"]


def test_the_marker_is_written_once(root: StorageRoot) -> None:
    ensure_owner(root, "akool", OURS, first=True)
    before = marker(root).stat()
    ensure_owner(root, "akool", OURS, first=True)
    after = marker(root).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_ledgers_root_is_refused_with_both_names_and_the_way_out(root: StorageRoot) -> None:
    ensure_owner(root, "akool", THEIRS, first=True)
    with pytest.raises(OwnershipError) as caught:
        ensure_owner(root, "akool", OURS, first=True)
    message = str(caught.value)
    for part in (root.uri("akool"), OURS, THEIRS, "AKOOL_LEDGER_URL", "AKOOL_STORAGE", "Nothing was written"):
        assert part in message
    assert json.loads(marker(root).read_text()) == {"ledger": THEIRS}


def test_two_accounts_of_two_ledgers_live_in_one_root(root: StorageRoot) -> None:
    ensure_owner(root, "one", OURS, first=True)
    ensure_owner(root, "two", THEIRS, first=True)
    ensure_owner(root, "one", OURS, first=True)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"{}", b'"x"', b"\xff\xfe"])
def test_a_marker_that_cannot_be_read_stops_everything(root: StorageRoot, content: bytes) -> None:
    ensure_owner(root, "akool", OURS, first=True)
    marker(root).write_bytes(content)
    with pytest.raises(OwnershipError, match=r"ledger\.json cannot be read.*restore it from a backup"):
        ensure_owner(root, "akool", OURS, first=True)
    assert marker(root).read_bytes() == content


class UnwritableFiles(OsFiles):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")


def test_a_root_that_cannot_be_written_says_so_and_stays_unmarked(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path / "root"), files=UnwritableFiles())
    with pytest.raises(StorageError, match="Read-only file system"):
        ensure_owner(root, "akool", OURS, first=True)
    assert list(marker(root).parent.iterdir()) == []


class Overtaken(OsFiles):
    """Lets a ledger mark the root between another's look and its write."""

    def __init__(self, root: StorageRoot, faster: str) -> None:
        self.root = root
        self.faster = faster

    def link(self, source: Path, target: Path) -> None:
        ensure_owner(self.root, "akool", self.faster, first=True)
        super().link(source, target)


def test_of_two_ledgers_that_land_first_at_the_same_moment_one_gets_the_root(root: StorageRoot) -> None:
    slower = StorageRoot(root.uri(), files=Overtaken(root, faster=THEIRS))
    with pytest.raises(OwnershipError, match=f"belongs to ledger {THEIRS}"):
        ensure_owner(slower, "akool", OURS, first=True)
    assert json.loads(marker(root).read_text()) == {"ledger": THEIRS}
    assert list(marker(root).parent.iterdir()) == [marker(root)]


def test_two_runs_of_one_ledger_that_land_first_at_the_same_moment_both_go_on(root: StorageRoot) -> None:
    slower = StorageRoot(root.uri(), files=Overtaken(root, faster=OURS))
    assert ensure_owner(slower, "akool", OURS, first=True) == Mark(ledger_id=OURS)


@pytest.fixture
def remote() -> Iterator[StorageRoot]:
    yield StorageRoot("memory://ownership-test/root")
    fsspec.filesystem("memory").rm("/ownership-test", recursive=True)  # it outlives the test else


def test_a_remote_root_is_marked_too(remote: StorageRoot) -> None:
    ensure_owner(remote, "akool", OURS, first=True)
    ensure_owner(remote, "akool", OURS, first=True)
    with pytest.raises(OwnershipError, match=THEIRS):
        ensure_owner(remote, "akool", THEIRS, first=True)


# Never back


def landed(
    *job_ids: str, ledger_id: str | None = OURS, revision: int = 5, uri: str = "/data/akool/results/2025-10-09.parquet"
) -> LandedFile:
    return LandedFile(uri=uri, ledger_id=ledger_id, revision=revision, job_ids=job_ids)


@pytest.mark.parametrize("revision", [5, 6])
def test_the_same_or_a_newer_state_may_replace_the_file(revision: int) -> None:
    refuse_going_back(landed("a", "b"), OURS, revision, ["a", "b", "c"])
    refuse_going_back(landed(), OURS, revision, [])


def test_a_file_of_another_ledger_is_not_replaced() -> None:
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(landed("a", ledger_id=THEIRS, revision=1), OURS, 9, ["a"])
    message = str(caught.value)
    for part in (landed().uri, OURS, THEIRS, "AKOOL_LEDGER_URL", "Nothing was written"):
        assert part in message


def test_a_file_with_jobs_that_the_ledger_does_not_know_is_not_replaced() -> None:
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(landed("c", "b", "a"), OURS, 9, ["a", "d"])
    message = str(caught.value)
    for part in (landed().uri, "2 jobs", "such as b", "Restore", "ledger restore", "Nothing was written"):
        assert part in message


def test_a_file_that_shows_an_end_is_not_replaced_by_one_that_does_not() -> None:
    file = replace(landed("a", "b", "c"), ended_ids=["a", "b"])
    refuse_going_back(file, OURS, 9, ["a", "b", "c"], ended_ids=["a", "b", "c"])
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(file, OURS, 9, ["a", "b", "c"], ended_ids=["b"])
    for part in (file.uri, "1 jobs", "such as a", "ledger restore", "Nothing was written"):
        assert part in str(caught.value)


def test_a_file_of_a_higher_revision_is_not_replaced() -> None:
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(landed("a", revision=12), OURS, 7, ["a"])
    message = str(caught.value)
    for part in (landed().uri, "revision 12", "only at 7", "Nothing was written"):
        assert part in message


def test_an_empty_partition_does_not_replace_a_fuller_file() -> None:
    with pytest.raises(OwnershipError, match="1 jobs"):
        refuse_going_back(landed("a", revision=0), OURS, 0, [])


def test_a_file_without_a_ledger_of_its_own_is_judged_by_its_rows() -> None:
    refuse_going_back(landed("a", ledger_id=None, revision=0), OURS, 1, ["a"])
    with pytest.raises(OwnershipError, match="such as z"):
        refuse_going_back(landed("z", ledger_id=None, revision=0), OURS, 1, ["a"])


def test_the_other_ledger_is_named_first_when_several_things_are_wrong() -> None:
    with pytest.raises(OwnershipError, match=THEIRS):
        refuse_going_back(landed("z", ledger_id=THEIRS, revision=99), OURS, 1, [])
