"""The code location of the end-to-end tests: configured by the environment, with the defaults that users get."""

import os
from datetime import UTC, datetime, timedelta

import dagster as dg

from akool_dagster import AkoolResource, JobLedgerResource, VideoStoreResource, build_akool_definitions
from akool_dagster.settings import settings_from
from tests.e2e.chaos import failpoints, waits

if failpoints.install_if_asked(dict(os.environ)):
    waits.shorten()

settings = settings_from(os.environ)

defs = build_akool_definitions(
    akool=AkoolResource(
        api_key=dg.EnvVar("AKOOL_API_KEY"), base_url=settings.base_url, connect_timeout=2, read_timeout=3
    ),
    ledger=JobLedgerResource(url=dg.EnvVar("AKOOL_LEDGER_URL")),
    storage_root=settings.storage_root,
    start_date=(datetime.now(UTC) - timedelta(days=7)).date(),
    default_sensor_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    video_store=VideoStoreResource(storage_root=settings.storage_root, seconds_per_file=20),
)
