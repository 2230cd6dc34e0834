from __future__ import annotations

import math
import shutil
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import akool_dagster
import example_repo
from akool_dagster import TABLES, AkoolResource, JobLedgerResource, ParquetIOManager, build_akool_definitions
from akool_dagster.http.bounds import LowSpeedLimit
from akool_dagster.resources import VideoStoreResource
from akool_dagster.videos.fetch import FetchLimits
from example_repo.usage import credits_by_day

SECRET = "MARKED-SECRET-4711"


def build(prefix: str = "akool", **options: Any) -> dg.Definitions:
    return build_akool_definitions(
        prefix,
        akool=AkoolResource(api_key=SECRET),
        ledger=JobLedgerResource(url=f"postgresql://user:{SECRET}@db.example/akool"),
        storage_root="/data/akool",
        **options,
    )


@pytest.mark.parametrize("prefix", ["akool", "brand"])
def test_the_names_users_depend_on(prefix: str) -> None:
    defs = build(prefix)
    repository = defs.get_repository_def()
    nodes = {
        key.to_user_string(): repository.asset_graph.get(key) for key in repository.asset_graph.get_all_asset_keys()
    }
    assert nodes.keys() == {f"{prefix}/{name}" for name in ("jobs", *TABLES)}
    assert {node.group_name for node in nodes.values()} == {prefix}
    assert {sensor.name for sensor in repository.sensor_defs} == {f"{prefix}_poll_results"}
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert jobs == {f"{prefix}_land_results", f"{prefix}_land_videos"}
    assert set(defs.resources or {}) == {prefix, f"{prefix}_ledger", f"{prefix}_videos", f"{prefix}_tables"}
    assert not nodes[f"{prefix}/jobs"].is_materializable
    assert nodes[f"{prefix}/results"].parent_keys == {dg.AssetKey([prefix, "jobs"])}
    assert nodes[f"{prefix}/videos"].parent_keys == {dg.AssetKey([prefix, "results"])}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_shows_its_columns_with_descriptions_and_its_partition_column(name: str) -> None:
    node = build().get_repository_def().asset_graph.get(dg.AssetKey(["akool", name]))
    schema = node.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert [column.name for column in schema.columns] == TABLES[name].schema.names
    assert all(column.description for column in schema.columns)
    assert node.metadata["partition_expr"] == "partition_time"
    assert isinstance(node.partitions_def, dg.DailyPartitionsDefinition)


def test_tables_and_videos_can_be_left_out() -> None:
    defs = build(tables=["credits"], videos=False)
    graph = defs.get_repository_def().asset_graph
    assert {key.path[-1] for key in graph.get_all_asset_keys()} == {"jobs", "credits"}
    assert "akool_videos" not in (defs.resources or {})


def test_partitions_may_be_hourly() -> None:
    graph = build(granularity="hourly", start_date=date(2026, 3, 1)).get_repository_def().asset_graph
    partitions = graph.get(dg.AssetKey(["akool", "results"])).partitions_def
    assert isinstance(partitions, dg.HourlyPartitionsDefinition)
    assert partitions.get_first_partition_key() == "2026-03-01-00:00"


@pytest.mark.parametrize(
    "options",
    [
        {"tables": ["credit"]},
        {"tables": [], "videos": False},
        {"granularity": "weekly"},
        {"ids_per_request": 0},
        {"tick_seconds": 60},
        {"ids_per_request": 1.5},
        {"tick_seconds": math.nan},
        {"landing_interval_seconds": math.nan},
        {"landing_interval_seconds": -1},
        {"concurrent_requests": 0},
        {"concurrent_requests": 1.5},
        {"requests_per_second": 0},
        {"requests_per_second": math.inf},
        {"requests_per_second": math.nan},
        {"run_start_seconds": math.inf},
        {"run_start_seconds": -0.5},
        {"minimum_interval_seconds": -1},
        {"prefix": "a/b"},
        {"prefix": "my-team"},
        {"prefix": ""},
        {"prefix": "2024team"},
        {"prefix": "_team"},
        {"prefix": "class"},
        {"video_store": VideoStoreResource(storage_root="/data/elsewhere")},
        {"io_manager": ParquetIOManager(storage_root="/data/elsewhere")},
    ],
)
def test_what_cannot_work_is_refused_when_the_definitions_are_built(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        build(**options)


def test_tables_that_another_io_manager_keeps_may_lie_elsewhere() -> None:
    build(io_manager=dg.mem_io_manager, video_store=VideoStoreResource(storage_root="/data/elsewhere"))


def test_what_is_no_network_is_refused_when_the_resource_is_made() -> None:
    assert VideoStoreResource(storage_root="/data", allowed_networks=["10.0.0.0/8"]).allowed_networks
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        VideoStoreResource(storage_root="/data", allowed_networks=["10.0.0.1/8"])


def test_no_resource_shows_a_secret_in_its_repr() -> None:
    shown = [
        repr(AkoolResource(api_key=SECRET, client_id=SECRET, client_secret=SECRET)),
        repr(JobLedgerResource(url=f"postgresql://user:{SECRET}@db.example/akool")),
    ]
    assert not any(SECRET in text for text in shown)


@pytest.mark.parametrize("resource", [AkoolResource, JobLedgerResource, VideoStoreResource])
def test_every_config_field_has_a_description(resource: type[dg.ConfigurableResource[object]]) -> None:
    assert all(field.description for field in resource.model_fields.values())


def test_the_example_project_loads_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("AKOOL_BASE_URL", "AKOOL_STORAGE", "AKOOL_LEDGER_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("AKOOL_API_KEY", SECRET)
    from example_repo.definitions import defs

    dg.Definitions.validate_loadable(defs)
    keys = {key.to_user_string() for key in defs.get_repository_def().asset_graph.get_all_asset_keys()}
    assert "credits_by_day" in keys


def test_the_instance_settings_of_the_example_end_dead_runs(tmp_path: Path) -> None:
    shutil.copy(Path(example_repo.__file__).with_name("dagster.yaml"), tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled


def test_the_package_says_which_version_it_is() -> None:
    assert akool_dagster.__version__ == version("akool-dagster")
    assert (Path(akool_dagster.__file__).parent / "py.typed").exists()


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(akool_dagster, name) is not None for name in akool_dagster.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        akool_dagster.no_such_name  # noqa: B018


def test_every_limit_of_downloads_can_be_set_and_reaches_them() -> None:
    assert VideoStoreResource(storage_root="/data/akool").limits() == FetchLimits()
    given: dict[str, Any] = {"threads": 3, "max_bytes": 1001, "seconds_per_file": 1002.0, "reserve_bytes": 1005}
    store = VideoStoreResource(storage_root="/data/akool", stall_seconds=1003.0, stall_bytes_per_second=1004.0, **given)
    assert store.limits() == FetchLimits(low_speed=LowSpeedLimit(bytes_per_second=1004.0, seconds=1003.0), **given)


def test_the_example_counts_what_jobs_without_a_resolution_cost() -> None:
    rows = {"_id": ["a", "b"], "resolution": ["720p", None], "deduction_credit": [100.0, 20.0], "video_duration": 5.0}
    spent = pd.DataFrame(rows | {"partition_time": pd.Timestamp("2026-03-14", tz="UTC")}).convert_dtypes()
    by_day = credits_by_day(dg.build_asset_context(), spent)
    assert isinstance(by_day, pd.DataFrame)
    assert by_day["credits"].sum() == 120
