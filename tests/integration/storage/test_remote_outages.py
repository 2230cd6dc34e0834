"""A storage root in a cloud that cannot be used: outages, missing answers, credentials, and forked processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from akool_dagster.storage import StorageError, StorageRoot, remote
from tests.integration.storage.helpers import RELATIVE, put
from tests.object_store import ACCESS_KEY, SECRET_KEY, Hold, ObjectStore, answer

pytest_plugins = ["tests.integration.object_stores"]

CONTENT = b"the old one, whole"
Attempt = Callable[[StorageRoot], object]


@pytest.fixture
def root(object_store: ObjectStore) -> StorageRoot:
    object_store.write(RELATIVE, CONTENT)
    return StorageRoot(object_store.url)


ATTEMPTS: dict[str, Attempt] = {
    "HeadObject": lambda root: root.exists(RELATIVE),
    "GetObject": lambda root: root.read_bytes(RELATIVE),
    "ListObjects": lambda root: root.list_files("akool/results"),
    "PutObject": lambda root: put(root, b"new" * 1000),
}


@pytest.mark.parametrize(("operation", "attempt"), ATTEMPTS.items(), ids=ATTEMPTS)
def test_a_store_that_does_not_answer_is_given_up(
    operation: str, attempt: Attempt, object_store: ObjectStore, root: StorageRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("PART_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(remote, bound, 0.3)
    hold = Hold()
    object_store.break_(operation, hold)
    with pytest.raises(StorageError, match="did not answer in time"):
        attempt(root)
    assert object_store.objects() == {RELATIVE: CONTENT}
    hold.go_on.set()  # what the store does with a body that came whole after all is its own affair


def use_the_wrong_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")


def use_no_key(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def use_no_bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "bucket", "no-such-bucket")


def stop_the_server(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


def break_the_server(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.break_("*", answer(503, "SlowDown", "Please reduce your request rate."))


Trouble = Callable[[ObjectStore, pytest.MonkeyPatch], None]
OUTAGES: tuple[tuple[Trouble, str], ...] = (
    (use_the_wrong_key, "403 Forbidden|does not exist in our records"),
    (use_no_key, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
    (use_no_bucket, "bucket does not exist"),
    (stop_the_server, "no connection to the storage's endpoint"),
    (break_the_server, "reduce your request rate|503 Service Unavailable"),
)


@pytest.mark.parametrize(("bring_about", "reason"), OUTAGES)
def test_an_unusable_store_is_one_clear_sentence_and_never_a_missing_file(
    bring_about: Trouble, reason: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_about(object_store, monkeypatch)
    root = StorageRoot(object_store.url)
    for attempt in ATTEMPTS.values():
        with pytest.raises(StorageError, match=reason) as caught:
            attempt(root)
        text = str(caught.value)
        assert f"{object_store.url}/akool/results" in text
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


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_store: ObjectStore) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[studio]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "studio")


@pytest.mark.usefixtures("profile")
def test_a_profile_is_read_and_one_that_is_missing_is_named(root: StorageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root.read_bytes(RELATIVE) == CONTENT
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    with pytest.raises(StorageError, match=r"profile \(elsewhere\) could not be found"):
        StorageRoot(root.uri()).read_bytes(RELATIVE)


@pytest.mark.usefixtures("profile")
def test_a_profile_without_boto3_names_what_to_install(root: StorageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(StorageError, match=r"pip install 'akool-dagster\[s3-profile\]'"):
        root.read_bytes(RELATIVE)


FORKER = """
import os, sys
from akool_dagster.storage import StorageError, StorageRoot
assert "obstore" not in sys.modules, "obstore is large: not before a bucket is named"
url, relative = sys.argv[1:]
def read_in_a_child():
    child = os.fork()
    if not child:
        try:
            StorageRoot(url).read_bytes(relative)
            os._exit(0)
        except StorageError as error:
            os._exit(7 if "forked" in str(error) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
read_in_a_child()
StorageRoot(url).read_bytes(relative)
read_in_a_child()
StorageRoot(url).read_bytes(relative)
"""


def test_a_forked_process_never_waits_for_threads_that_it_has_not(object_store: ObjectStore, root: StorageRoot) -> None:
    command = [sys.executable, "-c", FORKER, object_store.url, RELATIVE]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n7\n", "")
