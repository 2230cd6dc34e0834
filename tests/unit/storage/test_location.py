"""Which roots and paths are taken, and which are refused in which words."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from akool_dagster import AkoolResource, JobLedgerResource, build_akool_definitions
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.resources import VideoStoreResource
from akool_dagster.storage import StorageError, StorageRoot, refuse_credentials
from akool_dagster.storage.location import SCHEMES

SECRET = "hunter2"
ROOT = StorageRoot("/data/root")


@pytest.mark.parametrize("url", ["data", "./data", "../data", "file://data", "~/data"])
def test_a_relative_root_is_refused_with_its_absolute_form(url: str) -> None:
    absolute = str(Path(url.removeprefix("file://")).expanduser().resolve())
    with pytest.raises(StorageError, match=re.escape(absolute)):
        StorageRoot(url)


NO_BUCKET = r"names no bucket. Write it as (s3|gs|az)://bucket/folder"
REFUSED = {
    "The storage root is empty": ["", "  ", "/data\0x"],
    r"cannot be at .*Give an absolute path, or s3://.*, gs://.* or az://": [
        "ftp://host/x",
        "memory://bucket/x",
        "abfs://box/x",
        "simplecache::s3://bucket/x",
    ],
    NO_BUCKET: ["s3://", "s3:///x", "gs:// /x", "az://a b/x"],
    "has a part that is empty": ["s3://bucket//x", "s3://bucket/a/../b", "az://box/."],
}


@pytest.mark.parametrize(("url", "words"), [(url, words) for words, urls in REFUSED.items() for url in urls])
def test_a_root_that_cannot_be_one_is_refused_with_what_to_write(url: str, words: str) -> None:
    with pytest.raises(StorageError, match=words):
        StorageRoot(url)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rest", ["bucket", "bucket/", "bucket/folder", "bucket/a@b/c:d/"])
def test_a_bucket_in_every_cloud_is_taken(scheme: str, rest: str) -> None:
    root = StorageRoot(f"{scheme}://{rest}")
    assert not root.is_local
    assert root.uri("akool/x") == f"{scheme}://{rest.rstrip('/')}/akool/x"


@pytest.mark.parametrize("url", ["/data/root", "/data/root/", "file:///data/root"])
def test_a_local_root_shows_as_its_path(url: str) -> None:
    root = StorageRoot(url)
    assert root.is_local
    assert root.uri() == "/data/root"
    assert root.uri("akool/x.parquet") == "/data/root/akool/x.parquet"


LEAKY = [
    f"s3://key:{SECRET}@bucket/x",
    f"s3://key:se/{SECRET}@bucket/x",
    f"s3://key:12/{SECRET}@bucket/x",
    f"s3://bucket/x?token={SECRET}",
    f"az://container/x#{SECRET}",
    f"abfs://container:{SECRET}@account.dfs.core.windows.net/x",
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
    shown = repr(VideoStoreResource(storage_root=dg.EnvVar("AKOOL_NO_SUCH_VARIABLE")))
    assert shown.count("AKOOL_NO_SUCH_VARIABLE") == 1


@pytest.mark.parametrize(
    "relative",
    ["/x", "a//b", "a/", "..", "a/../b", "./a", "a\\b", "a\0b", "a b", "ä", "a/*", "~/x", "a\n", "a?b", "s3://x"],
)
def test_what_is_no_plain_path_below_the_root_is_refused(relative: str) -> None:
    with pytest.raises(StorageError, match="not a path below the storage root"):
        ROOT.uri(relative)


plain_parts = st.from_regex(r"[A-Za-z0-9._:=-]{1,9}", fullmatch=True)


@given(st.lists(plain_parts | st.sampled_from([".", "..", "a b"]), min_size=1, max_size=4).map("/".join))
@example("..")
def test_a_path_below_the_root_is_taken_as_it_is_or_refused(relative: str) -> None:
    is_plain = all(re.fullmatch(r"[A-Za-z0-9._:=-]+", part) and part not in (".", "..") for part in relative.split("/"))
    if is_plain:
        assert ROOT.uri(relative) == f"/data/root/{relative}"
        assert Path(ROOT.uri(relative)).resolve().is_relative_to("/data/root")
    else:
        with pytest.raises(StorageError):
            ROOT.uri(relative)
