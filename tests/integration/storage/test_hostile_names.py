"""Names from outside (ids, labels, partition keys, asset keys, prefixes, links) and the paths that become of them."""

from __future__ import annotations

import json
import keyword
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import dagster as dg
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from akool_dagster import AkoolResource, JobLedger, JobLedgerResource, TrackRequest, build_akool_definitions
from akool_dagster.base.accounts import check_account
from akool_dagster.base.job_ids import JOB_ID_PATTERN
from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.ledger.errors import InvalidJobError
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.store import VideoRequest, video_path
from tests.clock import FakeClock
from tests.deployment import Deployment, emulated, object_id
from tests.in_memory import folder_in_memory
from tests.thoroughness import thorough

PIECES = ["..", ".", "/", "\\", "\0", "\n", "\r", "~", "%2e%2e", "%2f", "..%2f", ":", "*", "?", "|", "$HOME", "`id`"]
PIECES += ["con", "nul.", "\u202e", "\u2215", "\uff0e\uff0e", "é", "a", "6", "-rf", "ledger.json", ".partial", " "]
HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join) | st.text(min_size=1, max_size=30)
GRIDS = [PartitionGrid(granularity, datetime(2025, 8, 1, tzinfo=UTC)) for granularity in Granularity]
UP = "../../../../etc/passwd"

many = settings(max_examples=thorough(50, 1000))


def files(folder: Path) -> set[str]:
    """Return every file below a folder but the locks of partitions."""
    found = (path for path in folder.rglob("*") if not path.is_dir() and path.suffix != ".lock")
    return {str(path.relative_to(folder)) for path in found}


# --- ids ---


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobLedger]:
    path = tmp_path_factory.mktemp("names") / "ledger.sqlite"
    with JobLedger.create(f"sqlite:///{path}", clock=FakeClock()) as ledger:
        yield ledger


@many
@given(text=HOSTILE)
@example(text=UP)
@example(text="a/../../b")
@example(text="a\n")
def test_an_id_that_can_be_tracked_is_the_name_of_one_file_in_its_days_folder(ledger: JobLedger, text: str) -> None:
    try:
        ledger.account("akool").track([TrackRequest(job_id=text)])
    except InvalidJobError:
        assert not JOB_ID_PATTERN.fullmatch(text)
        return
    (job,) = (job for job in ledger.account("akool").jobs() if job.job_id == text.strip())
    request = VideoRequest(job_id=job.job_id, source_url="", expires_at_ms=0, partition_at_ms=job.partition_at)
    relative = video_path("akool/videos", request)
    folder, _, name = relative.rpartition("/")
    assert name == f"{job.job_id}.mp4"
    assert Path(StorageRoot("/data").uri(relative)).resolve() == Path("/data", folder, name)


def test_nothing_that_a_row_or_a_label_says_becomes_a_path(deployment: Deployment) -> None:
    job_id = object_id(int(time.time()) - 86_400)
    names = ("file_name", "effect_name", "effect_code", "batch_id", "team_id", "model_name", "resolution", "sub_type")
    deployment.emulator.add_job(
        emulated(job_id, video_duration=0.5, extra_fields=dict.fromkeys((*names, UP), f"{UP}\0\n"))
    )
    with JobLedger.create(deployment.ledger_url) as ledger:
        ledger.account("akool").track([TrackRequest(job_id=job_id, labels={UP: UP})])
    deployment.settle()
    day = time.strftime("%Y-%m-%d", time.gmtime(int(job_id[:8], 16)))
    tables = {f"akool/{name}/{day}.parquet" for name in ("results", "credits", "durations", "statuses", "videos")}
    assert files(deployment.root) == tables | {"akool/ledger.json", f"akool/videos/{day}/{job_id}.mp4"}
    (row,) = deployment.rows("results")
    assert (row["file_name"], json.loads(row["labels"])) == (f"{UP}\n", {UP: UP})


# --- partition keys ---


@many
@given(HOSTILE | st.from_regex(r"[0-9]{2,4}-[0-9]{1,2}-[0-9]{1,2}(-[0-9]{1,2}:[0-9]{1,2})?"), st.sampled_from(GRIDS))
@example("2026-3-1", GRIDS[0])
@example("٢٠٢٦-03-01", GRIDS[0])
@example("2026-03-01\n", GRIDS[0])
@example("2026-03-01-10:30", GRIDS[1])
@example("2026-03-01-9:00", GRIDS[1])
def test_a_partition_has_one_key_and_no_other(key: str, grid: PartitionGrid) -> None:
    try:
        start, end = grid.window(key)
    except ValueError:
        return
    assert end > start
    if start >= grid.start_ms:
        assert grid.key(start, now_ms=end) == key


def test_a_run_of_an_odd_partition_lands_nothing(deployment: Deployment) -> None:
    deployment.track(object_id(int(time.time())))
    for key in (UP, "2026-3-14", "2026-03-14/..", "2026-03-14 ", "2026-03-32", "\uff11-1-1"):
        for job in ("akool_land_results", "akool_land_videos"):
            try:
                landed = deployment.land(job, key).success
            except Exception as error:  # Dagster's own, of several kinds
                assert "partition" in str(error).lower()
                continue
            assert not landed
    assert not deployment.root.exists() or files(deployment.root) <= {"akool/ledger.json"}


# --- asset keys ---


@dataclass
class Output:
    """What the IO manager asks of Dagster's context, which takes half a second to make."""

    asset_key: dg.AssetKey
    asset_partition_key: str
    has_asset_partitions: bool = True
    add_output_metadata: Callable[[object], None] = field(default=lambda _metadata: None)


def written(root: Path, parts: list[str], key: str) -> bool:
    context = cast(dg.OutputContext, Output(dg.AssetKey(parts), key))
    try:
        ParquetIOManager(storage_root=str(root)).handle_output(context, pd.DataFrame({"x": [1]}))
    except dg.Failure:
        return False
    return True


@settings(max_examples=thorough(25, 400))
@given(parts=st.lists(HOSTILE, min_size=1, max_size=3), keys=st.lists(HOSTILE, min_size=1, max_size=3, unique=True))
@example(parts=["..", "..", "x"], keys=["k"])
@example(parts=["akool/results"], keys=["k"])
@example(parts=["mine", "table"], keys=["a:b", "ab"])
@example(parts=["mine", "table"], keys=["../x", "x", "a/b"])
def test_each_partition_of_an_asset_is_one_file_in_its_folder_or_an_error(parts: list[str], keys: list[str]) -> None:
    with folder_in_memory() as around:
        (root := around / "storage").mkdir()
        stored = [key for key in keys if written(root, parts, key)]
        made = files(around)
        assert len(made) == len(stored)
        assert {str(Path(name).parent) for name in made} <= {f"storage/{'/'.join(parts)}"}


# --- prefix and account ---


@many
@given(HOSTILE)
@example(UP)
@example("akool/videos")
def test_an_account_is_a_plain_name_or_an_error(name: str) -> None:
    is_plain = re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,63}", name) is not None and not keyword.iskeyword(name)
    try:
        check_account(name)
    except ValueError:
        assert not is_plain
    else:
        assert is_plain


@pytest.mark.parametrize("prefix", [UP, "akool/videos", "..", ""])
def test_a_prefix_that_is_no_plain_name_builds_no_definitions(prefix: str) -> None:
    akool, ledger = AkoolResource(api_key="k"), JobLedgerResource(url="sqlite:////data/ledger.sqlite")
    with pytest.raises(ValueError, match="cannot be an account"):
        build_akool_definitions(prefix, akool=akool, ledger=ledger, storage_root="/data")


# --- symbolic links ---


def test_a_link_where_a_temporary_file_belongs_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    root = StorageRoot(str(tmp_path / "storage"))
    with root.temporary("akool/x.mp4") as path:
        path.symlink_to(outside)
        with pytest.raises(FileExistsError):
            root.files.open(path, "xb")
    assert outside.read_text() == "precious"
    assert not path.is_symlink()


def test_a_link_at_the_destination_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "storage" / "mine" / "table"
    folder.mkdir(parents=True)
    (folder / "k.parquet").symlink_to(outside)
    assert written(tmp_path / "storage", ["mine", "table"], "k")
    assert outside.read_text() == "precious"
    assert not (folder / "k.parquet").is_symlink()
    assert (folder / "k.parquet").stat().st_size > 100


def test_a_folder_that_the_operator_made_a_link_is_used(tmp_path: Path) -> None:
    """A day moved to a larger disk: the storage root is the operator's, and so are the links in it."""
    elsewhere = tmp_path / "larger"
    elsewhere.mkdir()
    (tmp_path / "storage" / "mine").mkdir(parents=True)
    (tmp_path / "storage" / "mine" / "table").symlink_to(elsewhere)
    assert written(tmp_path / "storage", ["mine", "table"], "k")
    assert files(elsewhere) == {"k.parquet"}


def test_cleaning_up_removes_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    root = StorageRoot(str(tmp_path / "storage"))
    (tmp_path / "storage" / "akool").mkdir(parents=True)
    link = tmp_path / "storage" / "akool" / ".x.mp4.1.partial"
    link.symlink_to(outside)
    os.utime(link, (0, 0), follow_symlinks=False)
    assert root.remove_stale_temporaries("akool", FakeClock()) == 1
    assert outside.read_text() == "precious"


def test_anothers_file_in_a_shared_temporary_folder_stops_no_landing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("anothers", "ours"):
        path = tmp_path / f".akool-dagster.{name}.partial"
        path.touch()
        os.utime(path, (0, 0))
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if "anothers" in path.name:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    assert StorageRoot("s3://bucket/x").remove_stale_temporaries("akool", FakeClock()) == 1
    assert files(tmp_path) == {".akool-dagster.anothers.partial"}
