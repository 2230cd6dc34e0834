from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster import AkoolResource, JobLedgerResource, build_akool_definitions
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.resources import VideoStoreResource
from akool_dagster.storage import StorageError, StorageRoot, refuse_credentials
from akool_dagster.storage.location import SCHEMES

SECRET = "hunter2"
parts = st.from_regex(re.compile(r"[A-Za-z0-9._:=-]{1,20}"), fullmatch=True)


@pytest.mark.parametrize("url", ["data", "./data", "../data", "file://data", "~/data"])
def test_a_relative_root_is_refused_with_its_absolute_form(url: str) -> None:
    path = url.removeprefix("file://")
    absolute = str(Path(path).expanduser().resolve())
    with pytest.raises(StorageError, match=re.escape(absolute)):
        StorageRoot(url)


@pytest.mark.parametrize("url", ["", "  ", "/data\0x"])
def test_a_root_that_is_no_path_at_all_is_refused(url: str) -> None:
    with pytest.raises(StorageError):
        StorageRoot(url)


@pytest.mark.parametrize("url", ["ftp://host/x", "memory://bucket/x", "abfs://box/x", "simplecache::s3://bucket/x"])
def test_another_scheme_is_refused_with_those_that_are_supported(url: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be at .*Give an absolute path, or s3://.*, gs://.* or az://"):
        StorageRoot(url)


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "gs:// /x", "az://a b/x"])
def test_a_url_without_a_bucket_is_refused_with_the_form_to_write(url: str) -> None:
    with pytest.raises(StorageError, match=r"names no bucket. Write it as (s3|gs|az)://bucket/folder"):
        StorageRoot(url)


@pytest.mark.parametrize("url", ["s3://bucket//x", "s3://bucket/a/../b", "az://box/."])
def test_a_folder_that_no_object_can_be_in_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="has a part that is empty"):
        StorageRoot(url)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rest", ["bucket", "bucket/", "bucket/folder", "bucket/a@b/c:d/"])
def test_a_bucket_in_every_cloud_is_taken(scheme: str, rest: str) -> None:
    root = StorageRoot(f"{scheme}://{rest}")
    assert not root.is_local
    assert root.uri("akool/x") == f"{scheme}://{rest.rstrip('/')}/akool/x"


LEAKY = [
    f"s3://key:{SECRET}@bucket/x",
    f"s3://key:se/{SECRET}@bucket/x",
    f"s3://key:12/{SECRET}@bucket/x",
    f"s3://bucket/x?token={SECRET}",
    f"az://container/x#{SECRET}",
    f"abfs://container:{SECRET}@account.dfs.core.windows.net/x",
    f"sftp://me:{SECRET}@host:22/x",
    f"simplecache::s3://key:{SECRET}@bucket/x",
    f"nosuchdriver://user:{SECRET}@bucket/x",
    f"file://user:{SECRET}@host/x",
    f"gs://user:{SECRET}@bucket/x?token={SECRET}",
]
VARIABLES = "AWS_SECRET_ACCESS_KEY|GOOGLE_APPLICATION_CREDENTIALS|AZURE_STORAGE_ACCOUNT_KEY"


@pytest.mark.parametrize("url", LEAKY)
def test_credentials_in_the_url_are_refused_without_being_shown(url: str) -> None:
    makers = (StorageRoot, lambda root: ParquetIOManager(storage_root=root))
    for make in (*makers, lambda root: VideoStoreResource(storage_root=root)):
        with pytest.raises(StorageError, match=VARIABLES) as caught:
            make(url)
        assert SECRET not in str(caught.value)


def test_definitions_with_credentials_in_the_storage_root_do_not_load() -> None:
    akool, ledger = AkoolResource(api_key="k"), JobLedgerResource(url="sqlite:////data/ledger.sqlite")
    with pytest.raises(StorageError, match="environment"):
        build_akool_definitions(akool=akool, ledger=ledger, storage_root=LEAKY[0])


@pytest.mark.parametrize("url", ["s3://bucket/a@b/c:d", "/data/a:b@c?d#e", "file:///data/a:b@c?d#e", "/data/a::b"])
def test_a_url_without_credentials_is_no_trouble(url: str) -> None:
    refuse_credentials(url)
    assert ParquetIOManager(storage_root=url).storage_root == url


def test_a_variable_is_not_read_before_the_run() -> None:
    assert (
        repr(VideoStoreResource(storage_root=dg.EnvVar("AKOOL_NO_SUCH_VARIABLE"))).count("AKOOL_NO_SUCH_VARIABLE") == 1
    )


@pytest.mark.parametrize("url", ["/data/root", "/data/root/", "file:///data/root"])
def test_a_local_root_shows_as_its_path(url: str) -> None:
    root = StorageRoot(url)
    assert root.is_local
    assert root.uri() == "/data/root"
    assert root.uri("akool/x.parquet") == "/data/root/akool/x.parquet"


@pytest.mark.parametrize(
    "relative",
    ["", "/x", "a//b", "a/", "..", "a/../b", "./a", "a\\b", "a\0b", "a b", "ä", "a/*", "~/x", "a\n", "a?b", "s3://x"],
)
def test_what_is_no_plain_path_below_the_root_is_refused(relative: str, tmp_path: Path) -> None:
    root = StorageRoot(str(tmp_path))
    with pytest.raises(StorageError, match="not a path below the storage root"):
        root.exists(relative)


@given(st.lists(parts, min_size=1, max_size=4))
def test_every_plain_path_stays_below_the_root(pieces: list[str]) -> None:
    root = StorageRoot("/data/root")
    relative = "/".join(pieces)
    if "." in pieces or ".." in pieces:
        with pytest.raises(StorageError):
            root.uri(relative)
    else:
        assert Path(root.uri(relative)).resolve().is_relative_to("/data/root")
        assert root.uri(relative) == f"/data/root/{relative}"


@given(st.text(max_size=40))
def test_no_text_escapes_the_root(text: str) -> None:
    root = StorageRoot("/data/root")
    try:
        uri = root.uri(text or ".")
    except StorageError:
        return
    assert Path(uri).resolve().is_relative_to("/data/root")
