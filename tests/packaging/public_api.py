"""A user's file, for ``mypy --strict`` and not to be run: it uses every public name, with the types users rely on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import assert_type

import dagster as dg

from akool_dagster import (
    TABLES,
    AkoolClient,
    AkoolDagsterError,
    AkoolResource,
    JobLedger,
    JobLedgerResource,
    ParquetIOManager,
    TrackRequest,
    VideoStoreResource,
    build_akool_definitions,
)
from akool_dagster.tables import TableSpec

akool = AkoolResource(api_key=dg.EnvVar("AKOOL_API_KEY"))
ledger_resource = JobLedgerResource(url=dg.EnvVar("AKOOL_LEDGER_URL"), busy_timeout=5.0)

small: dg.Definitions = build_akool_definitions(akool=akool, ledger=ledger_resource, storage_root="/data/akool")
defs: dg.Definitions = dg.Definitions.merge(
    small,
    build_akool_definitions(
        "studio",
        akool=AkoolResource(client_id="id", client_secret=dg.EnvVar("AKOOL_CLIENT_SECRET")),
        ledger=ledger_resource,
        storage_root=dg.EnvVar("AKOOL_STORAGE"),
        tables=["results", "credits"],
        videos=False,
        start_date=date(2025, 8, 1),
        granularity="hourly",
        minimum_interval_seconds=60,
        default_sensor_status=dg.DefaultSensorStatus.RUNNING,
        ids_per_request=100,
        requests_per_second=2.0,
        video_store=VideoStoreResource(storage_root="/data/akool", threads=4),
        io_manager=ParquetIOManager(storage_root="/data/akool"),
    ),
)

assert_type(TABLES, Mapping[str, TableSpec])
assert_type(akool.client(), AkoolClient)
assert_type(ledger_resource.create(), JobLedger)


def track(job_ids: list[str]) -> int:
    """Track ids as the README shows, and return how many are new."""
    requests = [TrackRequest(job_id=job_id, labels={"campaign": "spring"}) for job_id in job_ids]
    try:
        with JobLedger.create("sqlite:////data/akool/ledger.sqlite") as ledger:
            assert_type(ledger, JobLedger)
            account = ledger.account("akool")
            for job in account.jobs(state="pending"):
                assert_type(job.job_id, str)
            return account.track(requests, again=True).added
    except AkoolDagsterError as error:
        raise SystemExit(str(error)) from error


@dg.asset
def tracked(akool_ledger: JobLedgerResource, akool: AkoolResource) -> int:
    """Use both resources in an asset."""
    with akool_ledger.create() as ledger, akool.client() as client:
        assert_type(client, AkoolClient)
        assert_type(client.credit(), float)
        return ledger.account("akool").track([TrackRequest(job_id="68919a464b4dbdd4ab3d3034")]).added
