"""The example project in Dagster's real processes, with marked secrets: what their UI, arguments and files show."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster import JobLedger, TrackRequest
from akool_dagster.api import AkoolClient, ApiKey
from akool_dagster.emulator import AkoolEmulator
from akool_dagster.emulator.service import Account
from tests.deployment import emulated, object_id
from tests.e2e.graphql import Ui, pages
from tests.e2e.processes import kill_everything, processes_of
from tests.postgres_server import postgres_server
from tests.secrets import SECRETS_IN_ROWS, Haystack, leaky_fields, mark

REPOSITORY = Path(__file__).resolve().parents[2]
KEY, CLIENT_ID, CLIENT_SECRET, PASSWORD = mark("key"), mark("clientid"), mark("clientsecret"), mark("password")
SIGNATURE, CANARY = mark("signature"), mark("canary")
NEVER = [KEY, CLIENT_ID, CLIENT_SECRET, PASSWORD, *SECRETS_IN_ROWS]
YESTERDAY = int(time.time()) - 86_400

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the arguments of processes in /proc")


class Dagster:
    """`dagster dev` on a home of its own: web server, daemon, code server, and a process for each run."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.arguments: set[str] = set()
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        (home / "workspace.yaml").write_text(
            "load_from:\n  - python_module:\n      module_name: example_repo.definitions\n"
            f"      working_directory: {REPOSITORY}\n      location_name: {CANARY}\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AKOOL_", "DAGSTER_"))}
        command = [str(Path(sys.executable).with_name("dagster")), "dev", "-w", str(home / "workspace.yaml")]
        with (home / "dev.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-h", "127.0.0.1", "-p", str(self.port)],
                cwd=REPOSITORY,
                env=kept | {"DAGSTER_HOME": str(home)} | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = 180) -> None:
        """Look until the condition holds, and at the arguments of every process of ours meanwhile."""
        looks = threading.Event()
        for _ in range(int(seconds * 5)):
            self.arguments |= {process.command for process in processes_of(self.home)}
            if condition():
                return
            looks.wait(0.2)
        raise AssertionError(f"no {what} after {seconds} s:\n{(self.home / 'dev.log').read_text()[-4000:]}")

    def kill(self) -> None:
        kill_everything(self.home)
        self._process.wait()


@contextmanager
def postgresql_with_password() -> Iterator[str]:
    """Give the URL of a server that asks for no password, so that any one passes."""
    with postgres_server() as address:
        yield sa.make_url(address).set(password=PASSWORD).render_as_string(hide_password=False)


def ledger_rows(url: str) -> str:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg2"))
    tables = sa.MetaData()
    with engine.connect() as connection:
        tables.reflect(connection)
        rows = [tuple(row) for table in tables.sorted_tables for row in connection.execute(sa.select(table))]
    engine.dispose()
    return repr(rows)


def test_no_secret_reaches_the_ui_a_process_or_a_file(tmp_path: Path) -> None:
    """Landings that go well, a landing that is refused, and a key that is no longer accepted."""
    home, storage = tmp_path / "home", tmp_path / "storage"
    good, failed, late = (object_id(YESTERDAY, number) for number in range(3))
    haystack = Haystack()
    with postgresql_with_password() as url, AkoolEmulator(api_key=KEY) as emulator:
        fields = leaky_fields(CANARY)
        emulator.add_job(emulated(good, video_duration=0.5, extra_fields=fields))
        emulator.add_job(emulated(failed, outcome="failed", extra_fields=leaky_fields(CANARY)))
        emulator.add_job(emulated(late, outcome="failed", extra_fields=leaky_fields(CANARY)))
        with AkoolClient(ApiKey(KEY), base_url=emulator.base_url) as client:
            fields["video_url"] = f"{client.results([good]).rows[good].video_url}?Signature={SIGNATURE}"
        environment = {
            "AKOOL_API_KEY": KEY,
            "AKOOL_CLIENT_ID": CLIENT_ID,
            "AKOOL_CLIENT_SECRET": CLIENT_SECRET,
            "AKOOL_BASE_URL": emulator.base_url,
            "AKOOL_LEDGER_URL": url,
            "AKOOL_STORAGE": str(storage),
        }
        with JobLedger.create(url) as ledger:
            ledger.account("akool").track([TrackRequest(job_id=job_id) for job_id in (good, failed)])
        dagster = Dagster(home, environment)
        try:
            ui = Ui(f"http://127.0.0.1:{dagster.port}")
            shown = pages(CANARY, "akool_land_videos")
            dagster.wait_for("web server", ui.is_up)
            dagster.wait_for(
                "landing",
                lambda: any(storage.rglob("*.mp4")) and any(storage.rglob("videos/*.parquet")),
            )
            dagster.wait_for("finished runs", lambda: ui.ask(*shown["runs"]).count('"SUCCESS"') >= 2)
            (storage / "akool" / "ledger.json").write_text(f'{{"ledger": "{CANARY}"}}')
            with JobLedger.open(url) as ledger:
                ledger.account("akool").track([TrackRequest(job_id=late)])
            dagster.wait_for("failed run", lambda: f"belongs to ledger {CANARY}" in ui.ask(*shown["runs"]))
            emulator._service._account = Account(api_key="another", client_id="a", client_secret="b")
            with JobLedger.open(url) as ledger:
                ledger.account("akool").track([TrackRequest(job_id=object_id(YESTERDAY, 9))])
            dagster.wait_for("failed tick", lambda: "Akool answered 1109" in ui.ask(*shown["sensors"]))
            for page, (field, tree) in shown.items():
                haystack.add(f"page {page}", ui.ask(field, tree))
        finally:
            dagster.kill()
        haystack.add("ledger", ledger_rows(url))
    for arguments in dagster.arguments:
        haystack.add("arguments", arguments)
    haystack.add_folder("home", home)
    haystack.add_folder("storage", storage)

    assert haystack.find(NEVER) == set()
    assert {place for _, place in haystack.find([SIGNATURE])} == {"ledger", "storage"}
    # The search reached where a secret could have been: the canary has been everywhere, or its neighbours are shown.
    reached = {place for _, place in haystack.find([CANARY])}
    assert reached >= {"ledger", "storage", "home", "arguments", "page runs", "page sensors", "page workspace"}
    for page, text in {
        "page resources": "AKOOL_API_KEY",
        "page variables": "AKOOL_LEDGER_URL",
        "page assets": "akool/rows",
        "page runs": "RUN_FAILURE",
        "page sensors": "Check AKOOL_API_KEY",
        "page launchpad": "connect_timeout",
        "page job": "akool_land_videos",
        "page instance": "SENSOR",
    }.items():
        assert text.encode() in b"".join(haystack.places[page]), page
    for process in ("dagster_webserver", "dagster._daemon", "grpc", "multiprocessing"):  # the last are the runs
        assert any(process in arguments for arguments in dagster.arguments), dagster.arguments
