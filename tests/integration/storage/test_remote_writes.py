"""A storage root on S3: uploads, conditional writes and copies while everything between it and the store breaks."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from akool_dagster.storage import ChangedMeanwhileError, OsFiles, StorageError, StorageRoot, UnsupportedStorageError
from akool_dagster.storage.remote import PART_BYTES
from tests.integration.storage.helpers import RELATIVE, put, put_looked
from tests.object_store import (
    SECRET_KEY,
    Exchange,
    Fault,
    Hold,
    ObjectStore,
    answer,
    cut_the_answer,
    flip_a_byte,
    lose_the_answer,
    refuse_conditions,
    reset_halfway,
    tell_another_size,
)

pytest_plugins = ["tests.integration.object_stores"]

OLD = b"the old one, whole"
SMALL = os.urandom(20_000)
LARGE = os.urandom(2 * 64 * 1024 + 1000)
"""Three parts."""

SLOW_DOWN = answer(503, "SlowDown", "Please reduce your request rate.")
INTERNAL = answer(500, "InternalError", "We encountered an internal error.")
DENIED = answer(403, "AccessDenied", "Access Denied")
ERROR_IN_A_200 = answer(200, "InternalError", "We encountered an internal error.")


@pytest.fixture
def root(object_store: ObjectStore) -> StorageRoot:
    object_store.write(RELATIVE, OLD)
    return StorageRoot(object_store.url)


def second_part(exchange: Exchange) -> bool:
    return exchange.operation != "UploadPart" or exchange.query.get("partNumber") == ["2"]


UPLOAD_FAULTS = {
    "a reset in the middle of the body": (SMALL, "PutObject", reset_halfway),
    "500": (SMALL, "PutObject", INTERNAL),
    "503": (SMALL, "PutObject", SLOW_DOWN),
    "403": (SMALL, "PutObject", DENIED),
    "a byte that arrives as another": (SMALL, "PutObject", flip_a_byte),
    "503 before the first part": (LARGE, "CreateMultipartUpload", SLOW_DOWN),
    "a reset in the middle of a part": (LARGE, "UploadPart", reset_halfway),
    "500 for a part": (LARGE, "UploadPart", INTERNAL),
    "a byte of a part that arrives as another": (LARGE, "UploadPart", flip_a_byte),
    "500 at the end": (LARGE, "CompleteMultipartUpload", INTERNAL),
    "an error in an answer with status 200": (LARGE, "CompleteMultipartUpload", ERROR_IN_A_200),
}


@pytest.mark.parametrize(("content", "operation", "fault"), UPLOAD_FAULTS.values(), ids=UPLOAD_FAULTS)
def test_an_upload_that_fails_leaves_the_old_object_whole_and_no_part_behind(
    content: bytes, operation: str, fault: Fault, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_(operation, fault, when=second_part)
    with pytest.raises(StorageError, match=f"Cannot write {object_store.url}/{RELATIVE}: ") as caught:
        put(root, content)
    assert object_store.objects() == {RELATIVE: OLD}
    assert object_store.unfinished_uploads() == []
    assert SECRET_KEY not in str(caught.value) and "\n" not in str(caught.value)
    object_store.mend()
    put(root, content)
    assert object_store.objects() == {RELATIVE: content}


@pytest.mark.parametrize("fault", [SLOW_DOWN, reset_halfway])
@pytest.mark.parametrize(("content", "operation"), [(SMALL, "PutObject"), (LARGE, "UploadPart")], ids=["whole", "part"])
def test_a_fault_that_passes_is_not_noticed(
    content: bytes, operation: str, fault: Fault, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_(operation, fault, times=1)
    put(root, content)
    assert object_store.objects() == {RELATIVE: content}
    assert object_store.unfinished_uploads() == []


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart", "CompleteMultipartUpload"])
def test_an_answer_that_gets_lost_leaves_the_old_object_or_the_new_one_whole(
    operation: str, object_store: ObjectStore, root: StorageRoot
) -> None:
    content = SMALL if operation == "PutObject" else LARGE
    object_store.break_(operation, lose_the_answer)
    with pytest.raises(StorageError):
        put(root, content)
    assert object_store.objects() == {RELATIVE: OLD if operation == "UploadPart" else content}
    assert object_store.unfinished_uploads() == []


class UnreadableFile(io.FileIO):
    """A local file whose disk fails after the first part."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() or self.seek(0, io.SEEK_END) == len(SMALL):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.seek(0)
        return super().read(size) or b""


class UnreadableFiles(OsFiles):
    def open(self, path: Path, mode: str) -> BinaryIO:
        return cast(BinaryIO, UnreadableFile(path, mode))


@pytest.mark.parametrize(("content", "write"), [(SMALL, put), (SMALL, put_looked), (LARGE, put)])
def test_a_local_file_that_cannot_be_read_to_its_end_is_not_published(
    content: bytes, write: Callable[[StorageRoot, bytes], None], object_store: ObjectStore, root: StorageRoot
) -> None:
    with pytest.raises(StorageError, match="Input/output error"):
        write(StorageRoot(object_store.url, files=UnreadableFiles()), content)
    assert object_store.objects() == {RELATIVE: OLD}
    assert object_store.unfinished_uploads() == []


UPLOADER = """
import pathlib, sys
from akool_dagster.storage import StorageRoot
url, relative, size = sys.argv[1:]
root = StorageRoot(url)
with root.temporary(relative) as path:
    path.write_bytes(b"n" * int(size))
    root.publish(path, relative)
"""


def test_a_process_that_is_killed_in_the_middle_of_an_upload_leaves_the_old_object(
    object_store: ObjectStore, root: StorageRoot, tmp_path: Path
) -> None:
    hold = Hold()
    object_store.break_("UploadPart", hold, when=second_part)
    command = [sys.executable, "-c", UPLOADER, object_store.url, RELATIVE, str(2 * PART_BYTES + 1000)]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert hold.reached.wait(30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hold.go_on.set()
    assert object_store.objects() == {RELATIVE: OLD}
    assert len(object_store.unfinished_uploads()) == 1  # the bucket's lifecycle rule ends it
    lengths = [exchange.length for exchange in object_store.seen if exchange.operation == "UploadPart"]
    assert lengths == [PART_BYTES, PART_BYTES]
    object_store.mend()
    put(root, SMALL)
    assert object_store.objects() == {RELATIVE: SMALL}


def test_an_object_of_another_size_does_not_count_as_uploaded(object_store: ObjectStore, root: StorageRoot) -> None:
    object_store.break_("HeadObject", tell_another_size)
    with pytest.raises(StorageError, match=f"{len(SMALL) - 1} bytes are there after an upload of {len(SMALL)}"):
        put(root, SMALL)


# What is put over what


def remove_it(store: ObjectStore) -> None:
    assert StorageRoot(store.url).remove(RELATIVE)


def replace_it(store: ObjectStore) -> None:
    store.write(RELATIVE, b"newer")


@pytest.mark.parametrize(("change", "left"), [(replace_it, {RELATIVE: b"newer"}), (remove_it, {})])
def test_an_object_that_is_another_by_now_is_not_replaced(
    change: Callable[[ObjectStore], None], left: dict[str, bytes], object_store: ObjectStore, root: StorageRoot
) -> None:
    found = root.look(RELATIVE)
    change(object_store)
    with pytest.raises(ChangedMeanwhileError, match="another run wrote it meanwhile"):
        put(root, LARGE, replacing=found)
    assert object_store.objects() == left


@pytest.mark.parametrize("fault", [lose_the_answer, reset_halfway, SLOW_DOWN])
@pytest.mark.parametrize("relative", [RELATIVE, "akool/results/new.parquet"], ids=["replaced", "made"])
def test_a_conditional_write_without_an_answer_is_sent_again_and_knows_its_own_object(
    fault: Fault, relative: str, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_("PutObject", fault, times=1)
    put_looked(root, LARGE, relative)
    assert object_store.objects()[relative] == LARGE
    assert object_store.counts()["PutObject"] == 2


def test_an_object_of_the_same_size_as_ours_is_not_taken_for_ours(object_store: ObjectStore, root: StorageRoot) -> None:
    found = root.look(RELATIVE)
    object_store.write(RELATIVE, LARGE[:-1] + b"?")
    with pytest.raises(ChangedMeanwhileError):
        put(root, LARGE, replacing=found)


def test_a_store_that_refuses_conditions_is_refused(object_store: ObjectStore, root: StorageRoot) -> None:
    object_store.break_("PutObject", refuse_conditions)
    for write in (lambda: put_looked(root, SMALL), lambda: root.create("akool/x.json", SMALL)):
        with pytest.raises(UnsupportedStorageError, match="has no conditional writes"):
            write()
    assert object_store.objects() == {RELATIVE: OLD}


def test_conditional_writes_of_a_process_go_one_by_one(object_store: ObjectStore, root: StorageRoot) -> None:
    hold = Hold()
    object_store.break_("PutObject", hold, times=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(put_looked, root, SMALL, "akool/a.parquet")
        assert hold.reached.wait(30)
        second = pool.submit(put_looked, StorageRoot(object_store.url), SMALL, "akool/b.parquet")
        while object_store.counts()["HeadObject"] < 2:
            os.sched_yield()
        assert not second.done()
        assert object_store.counts()["PutObject"] == 1
        hold.go_on.set()
        first.result(), second.result()
    assert object_store.counts()["PutObject"] == 2


# A copy to read from


@pytest.mark.parametrize("changes", [1, 99])
def test_a_copy_is_of_one_version_of_an_object_that_changes_meanwhile_or_is_given_up(
    changes: int, object_store: ObjectStore, root: StorageRoot, system_temporary_folder: Path
) -> None:
    versions = [LARGE]
    object_store.write(RELATIVE, LARGE)

    def change(exchange: Exchange) -> None:
        answered = exchange.forward()
        versions.append(os.urandom(len(LARGE)))
        object_store.write(RELATIVE, versions[-1])
        exchange.send(*answered)

    object_store.break_("GetObject", change, times=changes)
    if changes == 99:
        with pytest.raises(ChangedMeanwhileError), root.local_copy(RELATIVE):
            pass
        return
    with root.local_copy(RELATIVE) as copy:
        assert copy is not None
        assert (copy[0].read(), copy[1]) == (versions[1], root.look(RELATIVE))


def test_content_that_is_cut_on_its_way_is_an_error_and_leaves_no_file(
    object_store: ObjectStore, root: StorageRoot, system_temporary_folder: Path
) -> None:
    object_store.break_("GetObject", cut_the_answer, times=1)
    assert root.read_bytes(RELATIVE) == OLD
    object_store.break_("GetObject", cut_the_answer)
    with pytest.raises(StorageError, match="Cannot read"):
        root.read_bytes(RELATIVE)
    with pytest.raises(StorageError, match="Cannot read"), root.local_copy(RELATIVE):
        pass
