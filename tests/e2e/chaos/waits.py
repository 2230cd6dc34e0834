"""The package's waits, shortened, so that two hundred kills fit into half an hour. Their order stays as it is.

Claims outlive ticks, leases outlive several renewals, a run waits longer for a lease than a lease lives.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

from akool_dagster.ledger.transitions import Limits

STALE_SECONDS = 60.0

SHORT_WAITS: tuple[tuple[str, str, object], ...] = (
    ("akool_dagster.ledger.ledger", "CLAIM_MS", 12_000),
    ("akool_dagster.ledger.ledger", "Limits", partial(Limits, miss_grace_ms=15_000, urlless_polls=0)),
    ("akool_dagster.ledger.leases", "LEASE_MS", 12_000),
    ("akool_dagster.ledger.records", "LEASE_MS", 12_000),
    ("akool_dagster.ledger.leases", "RENEW_SECONDS", 0.5),
    ("akool_dagster.ledger.leases", "WAIT_SECONDS", 15.0),
    ("akool_dagster.ledger.leases", "RETRY_SECONDS", 0.5),
    ("akool_dagster.polling", "SHORTEST_LOOK_MS", 1_000),
    ("akool_dagster.polling", "LONGEST_LOOK_MS", 5_000),
    ("akool_dagster.polling", "PAUSE_AFTER_THROTTLE_MS", 3_000),
    ("akool_dagster.polling", "RETRY_AFTER_TROUBLE_MS", 2_000),
    ("akool_dagster.landing", "ASK_AGAIN_SHARE", 2),
    ("akool_dagster.landing", "ASK_AGAIN_MS", 2_000),
    ("akool_dagster.landing", "LONGEST_BACK_OFF_MS", 10_000),
    ("akool_dagster.videos.schedule", "FIRST_WAIT_MS", 1_000),
    ("akool_dagster.videos.schedule", "LONGEST_WAIT_MS", 5_000),
    ("akool_dagster.videos.leftovers", "STALE_SECONDS", STALE_SECONDS),
    ("akool_dagster.io_manager", "STALE_SECONDS", STALE_SECONDS),
)
"""Module, name and the value in the crash test."""


def shorten() -> None:
    """Set the short waits in this process. Raises `AttributeError` for a name that the package no longer has."""
    for module, name, value in SHORT_WAITS:
        owner = import_module(module)
        getattr(owner, name)
        setattr(owner, name, value)
