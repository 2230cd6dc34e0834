"""A ledger in the PostgreSQL database that Dagster itself keeps its runs, events and schedules in."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from akool_dagster.emulator import AkoolEmulator
from akool_dagster.ledger.database import parse_ledger_url
from akool_dagster.ledger.schema import metadata
from tests.deployment import Deployment, emulated, object_id, quiet_instance

pytest_plugins = ["tests.integration.ledger_databases"]


@pytest.fixture
def drivers() -> Iterator[set[str]]:
    """Give the drivers of all connections that anything here makes."""
    drivers: set[str] = set()

    def note(connection: Any) -> None:
        drivers.add(connection.dialect.driver)

    sa.event.listen(sa.Engine, "engine_connect", note)
    yield drivers
    sa.event.remove(sa.Engine, "engine_connect", note)


@pytest.fixture
def url(new_schema: Callable[[], str]) -> str:
    """Give the URL of one empty schema for both."""
    return parse_ledger_url(new_schema()).render_as_string(hide_password=False)


@pytest.fixture
def instance(tmp_path: Path, url: str) -> Iterator[dg.DagsterInstance]:
    """Give a Dagster instance that keeps everything in PostgreSQL."""
    with quiet_instance(tmp_path / "dagster", storage={"postgres": {"postgres_url": url}}) as instance:
        yield instance


def test_dagster_and_the_ledger_share_a_database_and_a_driver(
    tmp_path: Path, emulator: AkoolEmulator, instance: dg.DagsterInstance, url: str, drivers: set[str]
) -> None:
    deployment = Deployment(tmp_path, emulator, instance, ledger_url=url)
    job_id = object_id(int(time.time()) - 86_400)
    emulator.add_job(emulated(job_id, deduction_credit=30))
    deployment.track(job_id)
    assert deployment.settle() == 2
    assert [row["deduction_credit"] for row in deployment.rows("credits")] == [30.0]
    assert deployment.video(job_id).read_bytes() == emulator.video_bytes(job_id)
    assert {run.dagster_run.status for run in instance.get_run_records()} == {dg.DagsterRunStatus.SUCCESS}
    tables = sa.inspect(sa.create_engine(url, poolclass=sa.NullPool)).get_table_names()
    assert metadata.tables.keys() | {"runs", "event_logs", "alembic_version"} <= set(tables)
    assert drivers == {"psycopg2"}


def test_the_extra_installs_the_same_distribution_of_the_driver_as_dagster_does() -> None:
    """Two distributions of one module would overwrite each other's files."""

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]

    def drivers_in(requirements: Iterable[str]) -> set[str]:
        names = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
        return {name for name in names if name.startswith("psycopg")}

    assert drivers_in(project["optional-dependencies"]["postgres"]) == {"psycopg2-binary"}
    assert drivers_in(requires("dagster-postgres") or ()) == {"psycopg2-binary"}
