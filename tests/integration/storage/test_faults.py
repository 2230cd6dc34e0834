"""The storage root on S3 while everything between it and the store breaks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from akool_dagster.storage import (
    ChangedMeanwhileError,
    OsFiles,
    StorageError,
    StorageRoot,
    UnsupportedStorageError,
    remote,
)
from akool_dagster.storage.remote import PART_BYTES
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


def str_of(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


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

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0

    def __enter__(self) -> UnreadableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads == 2 or len(SMALL) == os.fstat(self._file.fileno()).st_size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class UnreadableFiles(OsFiles):
    def open(self, path: Path, mode: str) -> BinaryIO:
        return cast(BinaryIO, UnreadableFile(super().open(path, mode)))


@pytest.mark.parametrize(("content", "looked"), [(SMALL, False), (SMALL, True), (LARGE, False)], ids=str_of)
def test_a_local_file_that_cannot_be_read_to_its_end_is_not_published(
    content: bytes, looked: bool, object_store: ObjectStore, root: StorageRoot
) -> None:
    with pytest.raises(StorageError, match="Input/output error"):
        put(StorageRoot(object_store.url, files=UnreadableFiles()), content, looked=looked)
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
    monkeypatch.setattr(remote, "UPLOAD_SECONDS", 0.3)
    monkeypatch.setattr(remote, "LEAST_BYTES_PER_SECOND", 10**9)
    hold = Hold()
    object_store.break_("PutObject", hold)
    with pytest.raises(StorageError, match="did not answer in time"):
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
    monkeypatch.setattr(remote, bound, 0.3)
    hold = Hold()
    object_store.break_(operation, hold)
    with pytest.raises(StorageError, match="did not answer in time"):
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
    with pytest.raises(ChangedMeanwhileError, match="another run wrote it meanwhile"), root.temporary(relative) as path:
        path.write_bytes(LARGE)
        root.publish(path, relative, replacing=found)
    assert object_store.objects()[relative] == b"newer"


def test_an_object_that_is_gone_by_now_is_not_replaced(object_store: ObjectStore, root: StorageRoot) -> None:
    found = root.look(RELATIVE)
    assert root.remove(RELATIVE)
    with pytest.raises(ChangedMeanwhileError), root.temporary(RELATIVE) as path:
        path.write_bytes(SMALL)
        root.publish(path, RELATIVE, replacing=found)
    assert object_store.objects() == {}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("relative", [RELATIVE, "akool/results/new.parquet"], ids=["replaced", "made"])
def test_a_conditional_write_whose_answer_got_lost_is_known_again(
    content: bytes, relative: str, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_("PutObject", lose_the_answer, times=1)
    put(root, content, relative, looked=True)
    assert object_store.objects()[relative] == content
    assert object_store.counts()["PutObject"] == 1


@pytest.mark.parametrize("fault", [reset_halfway, SLOW_DOWN])
def test_a_conditional_write_that_did_not_arrive_is_sent_again(
    fault: Fault, object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.break_("PutObject", fault, times=1)
    put(root, SMALL, looked=True)
    assert object_store.objects() == {RELATIVE: SMALL}
    assert object_store.counts()["PutObject"] == 2


def test_a_store_that_refuses_conditions_is_refused(object_store: ObjectStore, root: StorageRoot) -> None:
    object_store.break_("PutObject", refuse_conditions)
    with pytest.raises(UnsupportedStorageError, match="has no conditional writes"):
        put(root, SMALL, looked=True)
    with pytest.raises(UnsupportedStorageError, match="has no conditional writes"):
        root.create("akool/x.json", SMALL)
    assert object_store.objects() == {RELATIVE: OLD}


def test_conditional_writes_of_a_process_go_one_by_one(object_store: ObjectStore, root: StorageRoot) -> None:
    hold = Hold()
    object_store.break_("PutObject", hold, times=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(put, root, SMALL, "akool/a.parquet", looked=True)
        assert hold.reached.wait(30)
        second = pool.submit(put, StorageRoot(object_store.url), SMALL, "akool/b.parquet", looked=True)
        while object_store.counts()["HeadObject"] < 2:
            os.sched_yield()
        assert not second.done()
        assert object_store.counts()["PutObject"] == 1
        hold.go_on.set()
        first.result(), second.result()
    assert object_store.counts()["PutObject"] == 2


# A copy to read from


def test_a_copy_is_of_one_version_of_an_object_that_changes_meanwhile(
    object_store: ObjectStore, root: StorageRoot
) -> None:
    object_store.write(RELATIVE, LARGE)
    newer = LARGE[::-1]

    def change(exchange: Exchange) -> None:
        answered = exchange.forward()
        object_store.write(RELATIVE, newer)
        exchange.send(*answered)

    object_store.break_("GetObject", change, times=1)
    with root.local_copy(RELATIVE) as opened:
        assert opened is not None
        assert opened[0].read() == newer
        assert opened[1] == root.look(RELATIVE)


def test_a_copy_of_an_object_that_changes_all_the_time_is_given_up(
    object_store: ObjectStore, root: StorageRoot, system_temporary_folder: Path
) -> None:
    object_store.write(RELATIVE, LARGE)

    def change(exchange: Exchange) -> None:
        answered = exchange.forward()
        object_store.write(RELATIVE, os.urandom(len(LARGE)))
        exchange.send(*answered)

    object_store.break_("GetObject", change)
    with pytest.raises(ChangedMeanwhileError), root.local_copy(RELATIVE):
        pass


def test_a_copy_that_breaks_off_is_an_error_and_leaves_no_file(
    object_store: ObjectStore, root: StorageRoot, system_temporary_folder: Path
) -> None:
    object_store.break_("GetObject", cut_the_answer)
    with pytest.raises(StorageError, match="Cannot read"), root.local_copy(RELATIVE):
        pass


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
    "the wrong key": (the_wrong_key, "403 Forbidden|does not exist in our records"),
    "no key": (no_key, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
    "no bucket": (no_bucket, "bucket does not exist"),
    "nobody there": (nobody_there, "no connection to the storage's endpoint"),
    "an outage": (unavailable, "reduce your request rate|503 Service Unavailable"),
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


FORKER = """
import os, sys
from akool_dagster.storage import StorageError, StorageRoot
url, relative, before = sys.argv[1:]
if before == "used":
    StorageRoot(url).read_bytes(relative)
child = os.fork()
if not child:
    try:
        StorageRoot(url).read_bytes(relative)
        os._exit(0)
    except StorageError as error:
        os._exit(7 if "forked" in str(error) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
StorageRoot(url).read_bytes(relative)
"""


@pytest.mark.parametrize(("before", "code"), [("used", "7"), ("unused", "0")])
def test_a_forked_process_never_waits_for_threads_that_it_has_not(
    before: str, code: str, object_store: ObjectStore, root: StorageRoot
) -> None:
    command = [sys.executable, "-c", FORKER, object_store.url, RELATIVE, before]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == f"{code}\n"


# Profiles


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_store: ObjectStore) -> str:
    file = tmp_path / "credentials"
    file.write_text(f"[studio]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "studio")
    return "studio"


@pytest.mark.usefixtures("profile")
def test_a_profile_is_read(root: StorageRoot) -> None:
    assert root.read_bytes(RELATIVE) == OLD


@pytest.mark.usefixtures("profile")
def test_a_profile_that_is_missing_is_named(root: StorageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    with pytest.raises(StorageError, match=r"profile \(elsewhere\) could not be found"):
        root.read_bytes(RELATIVE)


@pytest.mark.usefixtures("profile")
def test_a_profile_without_boto3_names_what_to_install(root: StorageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(StorageError, match=r"pip install 'akool-dagster\[s3-profile\]'"):
        root.read_bytes(RELATIVE)


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


def test_a_file_is_sent_part_by_part(object_store: ObjectStore, root: StorageRoot) -> None:
    put(root, LARGE)
    put(root, SMALL)
    parts = [exchange for exchange in object_store.seen if exchange.operation == "UploadPart"]
    lengths = {exchange.query["partNumber"][0]: exchange.length for exchange in parts}
    assert lengths == {"1": PART_BYTES, "2": PART_BYTES, "3": 1000}
    assert object_store.counts()["PutObject"] == 1


# Other clouds


@pytest.mark.parametrize(
    ("url", "variable", "value"),
    [
        ("gs://bucket/folder", "GOOGLE_SERVICE_ACCOUNT_KEY", "no JSON with hunter2 in it"),
        ("az://box/folder", "AZURE_STORAGE_ACCOUNT_KEY", "no base64, hunter2"),
    ],
)
def test_credentials_that_cannot_be_used_are_one_sentence_that_does_not_show_them(
    url: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=f"Cannot open the storage root {url}: ") as caught:
        StorageRoot(url).exists(RELATIVE)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_importing_the_storage_loads_no_client_before_a_bucket_is_named() -> None:
    code = "import sys, akool_dagster.storage as s; s.StorageRoot('/data'); print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
