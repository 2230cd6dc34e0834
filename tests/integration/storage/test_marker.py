from __future__ import annotations

import json
from pathlib import Path

import pytest

from akool_dagster.storage import OsFiles, StorageError, StorageRoot, UnsupportedStorageError
from akool_dagster.storage.marker import Mark, OwnershipError, ensure_owner, read_mark, write_mark
from tests.object_store import Fault, ObjectStore, ignore_conditions, lose_the_answer, refuse_conditions

pytest_plugins = ["tests.integration.object_stores"]

OURS, THEIRS = "ledger-1111", "ledger-2222"
DAILY = "daily"


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"))


def marker(root: StorageRoot) -> Path:
    return Path(root.uri("akool/ledger.json"))


def test_a_new_root_is_marked(root: StorageRoot) -> None:
    ensure_owner(root, "akool", OURS, DAILY, first=True)
    assert json.loads(marker(root).read_text()) == {"ledger": OURS, "granularity": DAILY}
    assert [path.name for path in marker(root).parent.iterdir()] == ["ledger.json"]


def test_the_marker_is_written_once(root: StorageRoot) -> None:
    ensure_owner(root, "akool", OURS, DAILY, first=True)
    before = marker(root).stat()
    ensure_owner(root, "akool", OURS, DAILY, first=True)
    after = marker(root).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_ledgers_root_is_refused_with_both_names_and_the_way_out(root: StorageRoot) -> None:
    ensure_owner(root, "akool", THEIRS, DAILY, first=True)
    with pytest.raises(OwnershipError) as caught:
        ensure_owner(root, "akool", OURS, DAILY, first=True)
    message = str(caught.value)
    for part in (root.uri("akool"), OURS, THEIRS, "AKOOL_LEDGER_URL", "AKOOL_STORAGE", "Nothing was written"):
        assert part in message
    assert json.loads(marker(root).read_text()) == {"ledger": THEIRS, "granularity": DAILY}


def test_another_granularity_is_refused_naming_both(root: StorageRoot) -> None:
    ensure_owner(root, "akool", OURS, DAILY, first=True)
    with pytest.raises(OwnershipError, match=r"have daily partitions, but the definitions say hourly.*Nothing was"):
        ensure_owner(root, "akool", OURS, "hourly", first=False)


def test_a_marker_that_is_gone_after_the_first_landing_is_not_made_anew(root: StorageRoot) -> None:
    with pytest.raises(OwnershipError, match=r"is missing, though this ledger has landed here before: mount"):
        ensure_owner(root, "akool", OURS, DAILY, first=False)
    assert not marker(root).exists()


def test_two_accounts_of_two_ledgers_live_in_one_root(root: StorageRoot) -> None:
    ensure_owner(root, "one", OURS, DAILY, first=True)
    ensure_owner(root, "two", THEIRS, DAILY, first=True)
    ensure_owner(root, "one", OURS, DAILY, first=True)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"{}", b'"x"', b"\xff\xfe"])
def test_a_marker_that_cannot_be_read_stops_everything(root: StorageRoot, content: bytes) -> None:
    ensure_owner(root, "akool", OURS, DAILY, first=True)
    marker(root).write_bytes(content)
    with pytest.raises(OwnershipError, match=r"ledger\.json cannot be read.*restore it from a backup"):
        ensure_owner(root, "akool", OURS, DAILY, first=True)
    assert marker(root).read_bytes() == content


class UnwritableFiles(OsFiles):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")


def test_a_root_that_cannot_be_written_says_so_and_stays_unmarked(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path / "root"), files=UnwritableFiles())
    with pytest.raises(StorageError, match="Read-only file system"):
        ensure_owner(root, "akool", OURS, DAILY, first=True)
    assert list(marker(root).parent.iterdir()) == []


class Overtaken(OsFiles):
    """Lets a ledger mark the root between another's look and its write."""

    def __init__(self, root: StorageRoot, faster: str) -> None:
        self.root = root
        self.faster = faster

    def link(self, source: Path, target: Path) -> None:
        ensure_owner(self.root, "akool", self.faster, DAILY, first=True)
        super().link(source, target)


def test_of_two_ledgers_that_land_first_at_the_same_moment_one_gets_the_root(root: StorageRoot) -> None:
    slower = StorageRoot(root.uri(), files=Overtaken(root, faster=THEIRS))
    with pytest.raises(OwnershipError, match=f"belongs to ledger {THEIRS}"):
        ensure_owner(slower, "akool", OURS, DAILY, first=True)
    assert json.loads(marker(root).read_text()) == {"ledger": THEIRS, "granularity": DAILY}
    assert list(marker(root).parent.iterdir()) == [marker(root)]


def test_two_runs_of_one_ledger_that_land_first_at_the_same_moment_both_go_on(root: StorageRoot) -> None:
    slower = StorageRoot(root.uri(), files=Overtaken(root, faster=OURS))
    ensure_owner(slower, "akool", OURS, DAILY, first=True)
    assert read_mark(root, "akool") == Mark(ledger_id=OURS, granularity=DAILY)


def test_a_mark_reads_back(root: StorageRoot) -> None:
    mark = Mark(ledger_id=OURS, granularity="hourly")
    write_mark(root, "akool", mark)
    assert read_mark(root, "akool") == mark


# In object storage


@pytest.fixture
def remote(object_store: ObjectStore) -> StorageRoot:
    return StorageRoot(object_store.url)


def test_a_bucket_is_marked_once(remote: StorageRoot) -> None:
    for first in (True, True, False):
        ensure_owner(remote, "akool", OURS, DAILY, first=first)
    with pytest.raises(OwnershipError, match=THEIRS):
        ensure_owner(remote, "akool", THEIRS, DAILY, first=True)
    write_mark(remote, "akool", Mark(ledger_id=THEIRS))
    assert read_mark(remote, "akool") == Mark(ledger_id=THEIRS)


def test_a_mark_whose_answer_got_lost_is_ours(remote: StorageRoot, object_store: ObjectStore) -> None:
    object_store.break_("PutObject", lose_the_answer, times=1)
    ensure_owner(remote, "akool", OURS, DAILY, first=True)
    assert read_mark(remote, "akool") == Mark(ledger_id=OURS, granularity=DAILY)


@pytest.mark.parametrize("fault", [ignore_conditions, refuse_conditions])
def test_a_store_without_conditional_writes_is_refused_and_stays_unmarked(
    fault: Fault, remote: StorageRoot, object_store: ObjectStore
) -> None:
    object_store.break_("PutObject", fault)
    with pytest.raises(UnsupportedStorageError, match="has no conditional writes"):
        ensure_owner(remote, "akool", OURS, DAILY, first=True)
    with pytest.raises(UnsupportedStorageError, match="has no conditional writes"):
        write_mark(remote, "akool", Mark(ledger_id=OURS))
    assert object_store.objects() == {}


def test_a_run_that_was_killed_after_the_first_creation_does_not_hide_such_a_store(
    remote: StorageRoot, object_store: ObjectStore
) -> None:
    object_store.break_("PutObject", ignore_conditions)
    object_store.write("akool/ledger.json", json.dumps({"ledger": OURS}).encode())
    with pytest.raises(UnsupportedStorageError):
        ensure_owner(remote, "akool", OURS, DAILY, first=True)
