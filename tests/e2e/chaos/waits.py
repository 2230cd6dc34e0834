"""Waits for Akool and its CDN, shortened, so that two hundred kills fit into half an hour.

What a crash is about keeps the values that users get: claims, leases, the allowance of a starting run, spacing and
back-off of landings.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

from akool_dagster.ledger.transitions import Limits

STALE_SECONDS = 60.0

SHORT_WAITS: tuple[tuple[str, str, object], ...] = (
    ("akool_dagster.ledger.ledger", "Limits", partial(Limits, miss_grace_ms=15_000, urlless_polls=0)),
    ("akool_dagster.ledger.leases", "RENEW_SECONDS", 0.5),  # else no run lives long enough to renew its lease
    ("akool_dagster.polling.schedule", "LONGEST_DELAY_MS", 6_000),
    ("akool_dagster.polling.schedule", "PAUSE_AFTER_THROTTLE_MS", 3_000),
    ("akool_dagster.polling.poll_pass", "RETRY_AFTER_FAILURES_MS", 2_000),
    ("akool_dagster.videos.schedule", "FIRST_WAIT_MS", 1_000),
    ("akool_dagster.videos.schedule", "LONGEST_WAIT_MS", 5_000),
    ("akool_dagster.storage.root", "STALE_SECONDS", STALE_SECONDS),
)
"""Module, name and the value in the crash test."""


def shorten() -> None:
    """Set the short waits in this process. Raises `AttributeError` for a name that the package no longer has."""
    for module, name, value in SHORT_WAITS:
        owner = import_module(module)
        getattr(owner, name)
        setattr(owner, name, value)
