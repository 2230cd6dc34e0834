"""The storage root on S3 while everything between it and the store breaks."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs.core

from akool_dagster import object_storage
from akool_dagster.object_storage import PART_BYTES
from akool_dagster.storage import StorageError, StorageRoot
from tests.object_store import (
    ACCESS_KEY,
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

RELATIVE = "akool/videos/2025-10-09/a.mp4"
OLD = b"the old one, whole"
SMALL = os.urandom(200_000)
LARGE = os.urandom(2 * PART_BYTES + 1000)

SLOW_DOWN = answer(503, "SlowDown", "Please reduce your request rate.")
INTERNAL = answer(500, "InternalError", "We encountered an internal error.")
DENIED = answer(403, "AccessDenied", "Access Denied")
ERROR_IN_A_200 = answer(200, "InternalError", "We encountered an internal error.")


@pytest.fixture
def root(object_store: ObjectStore) -> StorageRoot:
    object_store.write(RELATIVE, OLD)
    return StorageRoot(object_store.url)


def put(root: StorageRoot, content: bytes, relative: str = RELATIVE, *, looked: bool = False) -> None:
    with root.temporary(relative) as path:
        path.write_bytes(content)
        root.publish(path, relative, replacing=root.look(relative) if looked else None)


def second_part(exchange: Exchange) -> bool:
    return exchange.query.get("partNumber") == ["2"]


UPLOAD_FAULTS = {
    "a reset in the middle of the body": (SMALL, "PutObject", reset_halfway),
    "500": (SMALL, "PutObject", INTERNAL),
    "503": (SMALL, "PutObject", SLOW_DOWN),
    "403": (SMALL, "PutObject", DENIED),
    "a byte that arrives as another": (SMALL, "PutObject", flip_a_byte),
    "503 before the first part": (LARGE, "CreateMultipartUpload", SLOW_DOWN),
    "a reset in the middle of a part": (LARGE, "UploadPart", reset_halfway),
    "500 for a part": (LARGE, "UploadPart", INTERNAL),
    "503 for a part": (LARGE, "UploadPart", SLOW_DOWN),
    "a byte of a part that arrives as another": (LARGE, "UploadPart", flip_a_byte),
    "500 at the end": (LARGE, "CompleteMultipartUpload", INTERNAL),
    "an error in an answer with status 200": (LARGE, "CompleteMultipartUpload", ERROR_IN_A_200),
}


@pytest.mark.parametrize(("content", "operation", "fault"), UPLOAD_FAULTS.values(), ids=UPLOAD_FAULTS)
def test_an_upload_that_fails_leaves_the_old_object_whole_and_no_part_behind(
    content: bytes, operation: str, fault: Fault, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_(operation, fault, when=second_part if operation == "UploadPart" else bool)
    with pytest.raises(StorageError, match=f"Cannot write {object_store.url}/{RELATIVE}: ") as caught:
        put(root, content)
    assert object_store.objects() == {RELATIVE: OLD}
    assert object_store.unfinished_uploads() == []
    assert SECRET_KEY not in str(caught.value) and "\n" not in str(caught.value)
    object_store.mend()
    put(root, content)
    assert object_store.objects() == {RELATIVE: content}


@pytest.mark.parametrize("fault", [SLOW_DOWN, reset_halfway])
@pytest.mark.parametrize(("content", "operation"), [(SMALL, "PutObject"), (LARGE, "UploadPart")])
def test_a_fault_that_passes_is_not_noticed(
    content: bytes, operation: str, fault: Fault, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_(operation, fault, times=1)
    put(root, content)
    assert object_store.objects() == {RELATIVE: content}
    assert object_store.unfinished_uploads() == []


@pytest.mark.parametrize(
    ("content", "operation"), [(SMALL, "PutObject"), (LARGE, "UploadPart"), (LARGE, "CompleteMultipartUpload")]
)
def test_an_answer_that_gets_lost_leaves_the_old_object_or_the_new_one_whole(
    content: bytes, operation: str, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_(operation, lose_the_answer)
    with pytest.raises(StorageError):
        put(root, content)
    expected = OLD if operation == "UploadPart" else content
    assert object_store.objects() == {RELATIVE: expected}
    assert object_store.unfinished_uploads() == []


class UnreadableFile:
    """A local file whose disk fails at the second read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._reads = 0

    def __enter__(self) -> UnreadableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads == 2 or size == -1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(self._file.read(size))


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_local_file_that_cannot_be_read_to_its_end_is_not_published(
    content: bytes, object_store: ObjectStore, root: StorageRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing_open(path: Any, mode: str) -> Any:
        return UnreadableFile(builtins.open(path, mode))  # noqa: PTH123  (stands in for the driver's)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.core, "open", failing_open, raising=False)
        with pytest.raises(StorageError, match="Input/output error"):
            put(root, content)
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


@pytest.mark.parametrize(
    ("size", "operation", "left"),
    [(PART_BYTES, "PutObject", 0), (3 * PART_BYTES, "UploadPart", 1)],
    ids=["in one request", "in the second part"],
)
def test_a_process_killed_in_the_middle_leaves_the_old_object(
    size: int, operation: str, left: int, object_store: ObjectStore, root: StorageRoot, tmp_path: Path
) -> None:
    hold = Hold()
    object_store.break_(operation, hold, when=second_part if operation == "UploadPart" else bool)
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOADER, object_store.url, RELATIVE, str(size)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert hold.reached.wait(30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hold.go_on.set()
    assert object_store.objects() == {RELATIVE: OLD}
    assert len(object_store.unfinished_uploads()) == left  # the bucket's lifecycle rule ends it
    object_store.mend()
    put(root, LARGE)
    assert object_store.objects() == {RELATIVE: LARGE}


def test_an_object_of_another_size_does_not_count_as_uploaded(object_store: ObjectStore, root: StorageRoot) -> None:
    object_store.break_("HeadObject", tell_another_size)
    with pytest.raises(StorageError, match=f"{len(SMALL) - 1} bytes are there after an upload of {len(SMALL)}"):
        put(root, SMALL)


def test_a_store_that_stops_reading_is_given_up(
    object_store: ObjectStore, root: StorageRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "UPLOAD_SECONDS", 0.3)
    monkeypatch.setattr(object_storage, "LEAST_BYTES_PER_SECOND", 10**9)
    hold = Hold()
    object_store.break_("PutObject", hold)
    with pytest.raises(StorageError, match="did not take 200000 bytes within 0 s"):
        put(root, SMALL)
    assert object_store.objects() == {RELATIVE: OLD}
    hold.go_on.set()  # what the store does with a body that came whole after all is its own affair


@pytest.mark.parametrize(
    ("bound", "operation", "ask"),
    [
        ("READ_SECONDS", "GetObject", lambda root: root.read_bytes(RELATIVE)),
        ("LOOK_SECONDS", "HeadObject", lambda root: root.size(RELATIVE)),
    ],
)
def test_a_store_that_answers_no_question_is_given_up(
    object_store: ObjectStore,
    root: StorageRoot,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    operation: str,
    ask: Callable[[StorageRoot], object],
) -> None:
    monkeypatch.setattr(object_storage, bound, 0.3)
    hold = Hold()
    object_store.break_(operation, hold)
    with pytest.raises(StorageError, match="did not answer within 0 s"):
        ask(root)
    hold.go_on.set()


def test_a_body_that_is_cut_while_reading_is_an_error(object_store: ObjectStore, root: StorageRoot) -> None:
    object_store.break_("GetObject", cut_the_answer, times=1)
    assert root.read_bytes(RELATIVE) == OLD
    object_store.break_("GetObject", cut_the_answer)
    with pytest.raises(StorageError, match="Cannot read"):
        root.read_bytes(RELATIVE)


# What is put over what


@pytest.mark.parametrize("before", [OLD, None], ids=["replaced", "made"])
def test_an_object_that_another_run_wrote_meanwhile_is_not_replaced(
    before: bytes | None, object_store: ObjectStore, root: StorageRoot
) -> None:
    relative = RELATIVE if before else "akool/results/2025-10-09.parquet"
    found = root.look(relative)
    object_store.write(relative, b"newer")
    with pytest.raises(StorageError, match="another run wrote it meanwhile"), root.temporary(relative) as path:
        path.write_bytes(LARGE)
        root.publish(path, relative, replacing=found)
    assert object_store.objects()[relative] == b"newer"


def test_a_write_whose_answer_got_lost_is_known_again(object_store: ObjectStore, root: StorageRoot) -> None:
    object_store.break_("PutObject", lose_the_answer, times=1)
    put(root, SMALL, looked=True)
    assert object_store.objects() == {RELATIVE: SMALL}
    assert object_store.counts()["PutObject"] == 2


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_store_without_conditional_writes_is_written_to_all_the_same(
    content: bytes, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_("PutObject", refuse_conditions)
    put(root, content, looked=True)
    assert object_store.objects() == {RELATIVE: content}


# Outages


def the_wrong_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")


def no_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def no_bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "bucket", "no-such-bucket")


def nobody_there(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


def unavailable(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.break_("*", SLOW_DOWN)


OUTAGES: dict[str, tuple[Callable[[ObjectStore, pytest.MonkeyPatch], None], str]] = {
    "the wrong key": (the_wrong_key, "Forbidden|do not have|does not exist in our records"),
    "no key": (no_key, "Unable to locate credentials"),
    "no bucket": (no_bucket, "bucket does not exist"),
    "nobody there": (nobody_there, "connect to the endpoint"),
    "an outage": (unavailable, "reduce your request rate|Service Unavailable|Slow Down"),
}


@pytest.mark.parametrize(("bring_about", "reason"), OUTAGES.values(), ids=OUTAGES)
def test_an_unusable_store_is_one_clear_sentence_and_never_a_missing_file(
    bring_about: Callable[[ObjectStore, pytest.MonkeyPatch], None],
    reason: str,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bring_about(object_store, monkeypatch)
    root = StorageRoot(object_store.url)
    attempts: list[Callable[[], object]] = [
        lambda: root.exists(RELATIVE),
        lambda: root.read_if_there(RELATIVE),
        lambda: put(root, SMALL),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=reason) as caught:
            attempt()
        text = str(caught.value)
        assert f"{object_store.url}/{RELATIVE}" in text
        assert "\n" not in text
        assert SECRET_KEY not in text and ACCESS_KEY not in text


def test_a_new_root_takes_the_credentials_that_the_environment_has_by_then(
    object_store: ObjectStore, root: StorageRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
        with pytest.raises(StorageError):
            StorageRoot(object_store.url).exists(RELATIVE)
    assert StorageRoot(object_store.url).exists(RELATIVE)


def test_what_the_user_s_own_code_listed_before_is_not_believed(object_store: ObjectStore, root: StorageRoot) -> None:
    users = fsspec.filesystem("s3")
    assert len(users.ls(f"{object_store.bucket}/folder/akool/videos/2025-10-09")) == 1
    object_store.write(RELATIVE, SMALL)
    object_store.write(RELATIVE + ".new", SMALL)
    fresh = StorageRoot(object_store.url)
    for each in (root, fresh):
        assert each.size(RELATIVE) == len(SMALL)
        assert each.read_bytes(RELATIVE) == SMALL
        assert each.exists(RELATIVE + ".new")


FORKER = """
import os, sys
from akool_dagster.storage import StorageRoot
url, relative = sys.argv[1:]
content = StorageRoot(url).read_bytes(relative)
child = os.fork()
if not child:
    os._exit(0 if StorageRoot(url).read_bytes(relative) == content else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_reads_on(object_store: ObjectStore, root: StorageRoot) -> None:
    subprocess.run([sys.executable, "-c", FORKER, object_store.url, RELATIVE], check=True, timeout=60)


# Many and large files


def test_eight_threads_share_a_root(object_store: ObjectStore, root: StorageRoot) -> None:
    files = {f"akool/videos/2025-10-09/{number}.mp4": os.urandom(20_000 + number) for number in range(40)}
    files |= {f"akool/videos/2025-10-10/{number}.mp4": os.urandom(2 * PART_BYTES + number) for number in range(2)}
    start = threading.Barrier(8)

    def work(names: list[str]) -> None:
        start.wait()
        for name in names:
            put(root, files[name], name)
            assert root.size(name) == len(files[name])
            assert root.read_bytes(name) == files[name]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, list(files)[thread::8]) for thread in range(8)]:
            done.result()
    assert object_store.objects() == files | {RELATIVE: OLD}
    assert object_store.unfinished_uploads() == []


def test_a_file_is_sent_part_by_part_each_with_its_checksum(object_store: ObjectStore, root: StorageRoot) -> None:
    put(root, LARGE)
    put(root, SMALL)
    parts = [exchange for exchange in object_store.seen if exchange.operation == "UploadPart"]
    assert [exchange.length for exchange in parts] == [PART_BYTES, PART_BYTES, 1000]
    assert [exchange.query["partNumber"] for exchange in parts] == [["1"], ["2"], ["3"]]
    bodies = [exchange for exchange in object_store.seen if exchange.method == "PUT"]
    assert len(bodies) == 4
    assert all("x-amz-checksum-crc32" in exchange.headers for exchange in bodies)


# Drivers


@pytest.mark.parametrize(
    ("url", "package"), [("gs://bucket/x", "gcsfs"), ("abfs://box/x", "adlfs"), ("s3://bucket/x", "akool-dagster[s3]")]
)
def test_a_driver_that_is_not_installed_is_named(url: str, package: str) -> None:
    script = (
        "import sys\n"
        "for name in ('s3fs', 'gcsfs', 'adlfs'): sys.modules[name] = None\n"
        "from akool_dagster.storage import StorageError, StorageRoot\n"
        "try: StorageRoot(sys.argv[1])\n"
        "except StorageError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, url], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == f"No driver for the storage root {url}: pip install '{package}'\n"
