"""Whose a storage root is: the marker ``ledger.json`` on a local disk and in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from akool_dagster.storage import OsFiles, StorageError, StorageRoot, UnsupportedStorageError
from akool_dagster.storage.marker import Mark, OwnershipError, ensure_owner, read_mark, write_mark
from tests.integration.storage.helpers import files_below
from tests.object_store import Fault, ObjectStore, ignore_conditions, lose_the_answer, refuse_conditions

pytest_plugins = ["tests.integration.object_stores"]

OURS, THEIRS = "ledger-1111", "ledger-2222"
MARKER = "akool/ledger.json"


def own(root: StorageRoot, ledger_id: str = OURS, granularity: str = "daily", *, first: bool = True) -> None:
    ensure_owner(root, "akool", ledger_id, granularity, first=first)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StorageRoot:
    return StorageRoot(request.getfixturevalue("object_store").url if request.param == "s3" else str(tmp_path))


def test_a_new_root_is_marked_once_and_is_refused_to_every_other_ledger(root: StorageRoot) -> None:
    for first in (True, True, False):
        own(root, first=first)
        assert root.list_files("akool") == ["ledger.json"]
        assert json.loads(root.read_bytes(MARKER) or b"") == {"ledger": OURS, "granularity": "daily"}
    with pytest.raises(OwnershipError) as caught:
        own(root, THEIRS)
    for part in (root.uri("akool"), OURS, THEIRS, "AKOOL_LEDGER_URL", "AKOOL_STORAGE", "Nothing was written"):
        assert part in str(caught.value)
    ensure_owner(root, "two", THEIRS, "daily", first=True)  # another account of another ledger
    assert read_mark(root, "akool") == Mark(ledger_id=OURS, granularity="daily")


def test_another_granularity_is_refused_naming_both(root: StorageRoot) -> None:
    own(root)
    with pytest.raises(OwnershipError, match=r"have daily partitions, but the definitions say hourly.*Nothing was"):
        own(root, granularity="hourly", first=False)


def test_a_marker_that_is_gone_after_the_first_landing_is_not_made_anew(root: StorageRoot) -> None:
    with pytest.raises(OwnershipError, match=r"is missing, though this ledger has landed here before: mount"):
        own(root, first=False)
    assert not root.exists(MARKER)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"{}", b'"x"', b'{"ledger": 7}', b"\xff\xfe", b"[" * 99_999]
)
def test_a_marker_that_cannot_be_read_stops_everything(tmp_path: Path, content: bytes) -> None:
    root, marker = StorageRoot(str(tmp_path)), tmp_path / MARKER
    own(root)
    marker.write_bytes(content)
    with pytest.raises(OwnershipError, match=r"ledger\.json cannot be read.*restore it from a backup"):
        own(root)
    assert marker.read_bytes() == content


@pytest.mark.parametrize("mark", [Mark(ledger_id=OURS, granularity="hourly"), Mark(ledger_id=THEIRS)])
def test_a_mark_reads_back_whatever_was_written_there_before(root: StorageRoot, mark: Mark) -> None:
    own(root)
    write_mark(root, "akool", mark)
    assert read_mark(root, "akool") == mark


class UnwritableFiles(OsFiles):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")


def test_a_root_that_cannot_be_written_says_so_and_stays_unmarked(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Read-only file system"):
        own(StorageRoot(str(tmp_path), files=UnwritableFiles()))
    assert files_below(tmp_path) == []


class Overtaken(OsFiles):
    """Lets a ledger mark the root between another's look and its write."""

    def __init__(self, root: StorageRoot, faster: str) -> None:
        self.root = root
        self.faster = faster

    def link(self, source: Path, target: Path) -> None:
        own(self.root, self.faster)
        super().link(source, target)


def test_when_two_runs_land_first_at_the_same_moment_one_ledger_gets_the_root(tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path))
    own(StorageRoot(str(tmp_path), files=Overtaken(root, faster=OURS)))  # both are runs of one ledger
    assert root.remove(MARKER)
    with pytest.raises(OwnershipError, match=f"belongs to ledger {THEIRS}"):
        own(StorageRoot(str(tmp_path), files=Overtaken(root, faster=THEIRS)))
    assert read_mark(root, "akool") == Mark(ledger_id=THEIRS, granularity="daily")
    assert files_below(tmp_path) == [MARKER]


# In object storage


def test_a_mark_whose_answer_got_lost_is_ours(object_store: ObjectStore) -> None:
    root = StorageRoot(object_store.url)
    object_store.break_("PutObject", lose_the_answer, times=1)
    own(root)
    assert read_mark(root, "akool") == Mark(ledger_id=OURS, granularity="daily")


@pytest.mark.parametrize("fault", [ignore_conditions, refuse_conditions])
def test_a_store_without_conditional_writes_is_refused_and_stays_unmarked(
    fault: Fault, object_store: ObjectStore
) -> None:
    root = StorageRoot(object_store.url)
    object_store.break_("PutObject", fault)
    for write in (own, lambda root: write_mark(root, "akool", Mark(ledger_id=OURS))):
        with pytest.raises(UnsupportedStorageError, match="has no conditional writes"):
            write(root)
        assert object_store.objects() == {}
    # A run that was killed after the first creation has left its mark.
    object_store.write(MARKER, json.dumps({"ledger": OURS}).encode())
    with pytest.raises(UnsupportedStorageError):
        own(root)
