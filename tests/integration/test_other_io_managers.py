from __future__ import annotations

import time

import dagster as dg
import pandas as pd
import pytest

from akool_dagster.clock import SystemClock
from akool_dagster.operations.check import check
from akool_dagster.storage import StorageRoot
from tests.deployment import Deployment, emulated, object_id

JOB = object_id(int(time.time()) - 86_400)


class Warehouse(dg.IOManager):
    """Keeps the rows of each asset's partitions in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[str]] = {}

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        self.rows[context.asset_key.path[-1], context.asset_partition_key] = list(obj["_id"])

    def load_input(self, context: dg.InputContext) -> object:
        raise NotImplementedError


@pytest.fixture
def warehouse(deployment: Deployment) -> Warehouse:
    warehouse = Warehouse()
    deployment.rebuild(io_manager=warehouse)
    deployment.emulator.add_job(emulated(JOB))
    deployment.track(JOB)
    return warehouse


def problems(deployment: Deployment) -> list[str]:
    report = check(deployment.ledger_url, StorageRoot(str(deployment.root)), "akool", clock=SystemClock())
    return [finding.what for finding in report.findings]


def test_videos_land_beside_tables_that_another_io_manager_keeps_whichever_comes_first(
    deployment: Deployment, warehouse: Warehouse
) -> None:
    deployment.tick()
    requests = deployment.tick().requests
    (tables,) = (request for request in requests if request.job_name == "akool_land_results")
    assert deployment.run(tables).success
    deployment.settle()
    assert deployment.video(JOB).exists()
    assert {name for (name, _), ids in warehouse.rows.items() if ids == [JOB]} == {
        "results",
        "credits",
        "durations",
        "statuses",
        "videos",
    }
    assert problems(deployment) == []


def test_a_deployment_whose_tables_another_io_manager_keeps_lacks_no_mark(
    deployment: Deployment, warehouse: Warehouse
) -> None:
    deployment.rebuild(videos=False)
    deployment.settle()
    assert len(warehouse.rows) == 4
    assert problems(deployment) == []
    deployment.rebuild(videos=True)  # switched on later
    deployment.settle()
    assert deployment.video(JOB).exists()
