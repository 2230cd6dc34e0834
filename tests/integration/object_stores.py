"""Object stores as fixtures (a module names this one in pytest_plugins)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from moto.s3 import models
from moto.server import ThreadedMotoServer

from akool_dagster.storage import connection, remote
from tests.object_store import ObjectStore


@pytest.fixture(scope="session")
def moto_server() -> Iterator[tuple[str, int]]:
    """Give the address of an S3 server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def object_store(moto_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Give an empty bucket, filled in parts of 64 KiB; the environment has the credentials and the endpoint."""
    monkeypatch.setattr(remote, "PART_BYTES", 64 * 1024)
    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(connection, "MAX_RETRIES", 2)
    monkeypatch.setattr(connection, "MAX_BACKOFF_SECONDS", 0.01)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with ObjectStore(moto_server) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield store
