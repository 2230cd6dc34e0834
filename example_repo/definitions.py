"""Everything for one Akool account, configured by the environment, and one asset of our own built on its tables."""

import os
from datetime import date

import dagster as dg

from akool_dagster import AkoolResource, JobLedgerResource, build_akool_definitions
from akool_dagster.settings import API_KEY, CLIENT_ID, CLIENT_SECRET, LEDGER_URL, settings_from
from example_repo.usage import credits_by_day

settings = settings_from(os.environ)


def from_environment(variable: str) -> dg.EnvVar | None:
    """Refer to a variable without reading it: its value shows neither in the UI nor in run config."""
    return dg.EnvVar(variable) if os.environ.get(variable) else None


defs = dg.Definitions.merge(
    build_akool_definitions(
        akool=AkoolResource(
            api_key=from_environment(API_KEY),
            client_id=from_environment(CLIENT_ID),
            client_secret=from_environment(CLIENT_SECRET),
            base_url=settings.base_url,
        ),
        ledger=JobLedgerResource(url=from_environment(LEDGER_URL) or settings.ledger_url),
        storage_root=settings.storage_root,
        start_date=date(2026, 11, 1),  # the day of your first job: earlier ones are polled, but in no partition
        default_sensor_status=dg.DefaultSensorStatus.RUNNING,
        # An example wants to be watched. The defaults, 30 and 60 seconds, are kinder to a large deployment.
        minimum_interval_seconds=5,
        landing_interval_seconds=10,
    ),
    dg.Definitions(assets=[credits_by_day]),
)
