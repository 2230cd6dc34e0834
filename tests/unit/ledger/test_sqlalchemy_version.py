"""Which SQLAlchemy the tests run with: `make test` runs the ledger's a second time on the oldest series supported."""

from __future__ import annotations

import os

import sqlalchemy as sa


def test_the_tests_use_the_version_that_they_are_meant_to() -> None:
    meant = os.environ.get("AKOOL_TEST_SQLALCHEMY", "")
    version = tuple(int(part) for part in sa.__version__.split(".")[:2])
    assert version == tuple(int(part) for part in meant.split(".")) if meant else version >= (2, 0)
