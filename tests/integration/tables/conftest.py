"""Fixtures of the tables' tests."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from tests.deployment import QUIET


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """Give one Dagster instance to all tests of a module: each test has files and a ledger of its own."""
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        yield instance
