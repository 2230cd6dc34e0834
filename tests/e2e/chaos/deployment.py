"""A deployment as in production: a daemon and a code server, each started again by its supervisor when it dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from tests.e2e.chaos.databases import LedgerDatabase
from tests.e2e.chaos.failpoints import FOLDER_VARIABLE, Arming
from tests.e2e.processes import Kind, Process, kill_everything, processes_of

REPOSITORY = Path(__file__).resolve().parents[3]
QUICK_START_SECONDS = 3.0
"""What a code server takes to start on a quiet machine of two cores."""
QUIET_SECONDS = 45.0
"""A daemon that says nothing of its sensor for so long is started again, as a liveness probe would."""

DIRTY_DAYS = """
SELECT hour_at - hour_at % 86400000 AS day FROM akool_hours GROUP BY hour_at - hour_at % 86400000
HAVING max(tables_version) > coalesce((SELECT min(version) FROM akool_landed WHERE asset <> 'videos'
AND partition_at = akool_hours.hour_at - akool_hours.hour_at % 86400000), 0)
"""
"""The days, as the ledger's own tables show them, of which something is to land."""

# Runs that die together with their code server stay "started" in Dagster for ever and would fill a limited queue.
_DAGSTER_YAML = """\
telemetry: {enabled: false}
sensors: {use_threads: true, num_workers: 2, num_submit_workers: 2}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    max_concurrent_runs: -1
    dequeue_interval_seconds: 1
    dequeue_use_threads: true
    dequeue_num_workers: 4
    max_user_code_failure_retries: 2
    user_code_failure_retry_delay: 3
"""
_WORKSPACE_YAML = """\
load_from:
  - grpc_server: {{host: localhost, socket: {socket}, location_name: chaos}}
"""
TICK = b"Checking for new runs for sensor: akool_poll_results"


@dataclass(frozen=True)
class Restart:
    """A start of the daemon while the code server answered."""

    at: float
    """Seconds since the Unix epoch."""
    has_to_land: bool


@dataclass
class Deployment:
    """One home, its processes and its supervisors. Call `supervise` often; `stop` ends everything."""

    home: Path
    base_url: str
    api_key: str
    ledger: LedgerDatabase
    restarts: list[Restart] = field(default_factory=list)
    started: int = 0
    """How often a daemon or code server was started."""
    slowness: float = 1.0
    """How many times longer than on a quiet machine the code server last took to start."""
    _supervised: dict[Kind, subprocess.Popen[bytes]] = field(default_factory=dict)
    _log_read: int = 0
    """Bytes of the daemon's log whose ticks are counted."""
    _ticks: int = 0
    _ticks_seen: int = 0
    _last_tick: float = 0.0
    _starting_since: float | None = None
    """When the code server was started that does not answer yet."""

    def __post_init__(self) -> None:
        self.arming = Arming(self.home / "failpoints")
        self.arming.prepare()
        # A socket's path may not be longer than 107 bytes, and pytest's folders are.
        self._socket = Path(f"/tmp/akool-chaos-{os.getpid()}-{time.time_ns() % 10**9}.sock")
        (self.home / "dagster.yaml").write_text(_DAGSTER_YAML)
        (self.home / "workspace.yaml").write_text(_WORKSPACE_YAML.format(socket=self._socket))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AKOOL_", "DAGSTER_"))}
        self.environment = kept | {
            "DAGSTER_HOME": str(self.home),
            "AKOOL_API_KEY": self.api_key,
            "AKOOL_BASE_URL": self.base_url,
            **self.ledger.environment,
            FOLDER_VARIABLE: str(self.home / "failpoints"),
            "PYTHONPATH": str(REPOSITORY),
        }

    @property
    def secrets(self) -> dict[str, str]:
        """What must be in the environment of processes and nowhere else, by its name."""
        return {"API key": self.api_key, **self.ledger.secrets}

    @property
    def tables(self) -> Path:
        """The account's folder in the storage root."""
        return self.home / "akool" / "akool"

    def processes(self) -> list[Process]:
        """Return the deployment's live processes."""
        return list(processes_of(self.home))

    def instance(self) -> dg.DagsterInstance:
        """Open Dagster's own storage; close it after use."""
        return dg.DagsterInstance.from_config(str(self.home))

    def ticks(self) -> int:
        """Return how many evaluations of the sensor the daemon has begun."""
        if self._log(Kind.DAEMON).exists():
            with self._log(Kind.DAEMON).open("rb") as log:
                log.seek(self._log_read)
                whole_lines = log.read().rpartition(b"\n")[0]
            self._log_read += len(whole_lines)
            self._ticks += whole_lines.count(TICK)
        return self._ticks

    def supervise(self) -> None:
        """Start what is not running. The daemon comes after the code server answers: it looks for it only at times."""
        if not self._runs(Kind.CODE_SERVER):
            self._start(Kind.CODE_SERVER)
            self._starting_since = time.monotonic()
        if self._starting_since is not None and self._code_server_answers():
            self.slowness = max(1.0, (time.monotonic() - self._starting_since) / QUICK_START_SECONDS)
            self._starting_since = None
        if not self._runs(Kind.DAEMON) and self._starting_since is None:
            self._start(Kind.DAEMON)
            self._last_tick = time.monotonic()
            self.restarts.append(Restart(time.time(), self._has_to_land()))
        self._mind_a_silent_daemon()

    def _has_to_land(self) -> bool:
        """Return whether the ledger shows a day whose version is above what a table has landed."""
        try:
            return bool(self.ledger.rows(DIRTY_DAYS))
        except Exception:  # there is no ledger yet, or its server recovers
            return False

    def _mind_a_silent_daemon(self) -> None:
        ticks = self.ticks()
        if ticks != self._ticks_seen or not self._runs(Kind.DAEMON):
            self._ticks_seen, self._last_tick = ticks, time.monotonic()
        elif time.monotonic() - self._last_tick > QUIET_SECONDS:
            self._supervised[Kind.DAEMON].kill()

    def command(self, arguments: Sequence[str], *, with_failpoints: bool) -> subprocess.Popen[bytes]:
        """Start `akool-dagster` with these arguments, as a person in a shell would."""
        module = "tests.e2e.chaos.command" if with_failpoints else "akool_dagster"
        program = [sys.executable, "-m", module] if with_failpoints else [_tool("akool-dagster")]
        return self._popen([*program, *arguments], self.home / "command.log")

    def stop(self) -> int:
        """Kill -9 everything; return how many processes it was."""
        killed = kill_everything(self.home)
        for process in self._supervised.values():
            process.wait()
        self._socket.unlink(missing_ok=True)
        return killed

    def last_line(self) -> str:
        """Return the last line that a command said."""
        return next(reversed((self.home / "command.log").read_text().splitlines()), "")

    def last_words(self) -> str:
        """Return the ends of the logs."""
        logs = [self._log(kind) for kind in (Kind.DAEMON, Kind.CODE_SERVER)] + [self.home / "command.log"]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in logs if log.exists())

    def _runs(self, kind: Kind) -> bool:
        process = self._supervised.get(kind)
        return process is not None and process.poll() is None

    def _code_server_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def _start(self, kind: Kind) -> None:
        code_server = ["api", "grpc", "-m", "tests.e2e.location", "-d", str(REPOSITORY), "--socket", str(self._socket)]
        command = {
            Kind.CODE_SERVER: [_tool("dagster"), *code_server, "--location-name", "chaos"],
            Kind.DAEMON: [_tool("dagster-daemon"), "run", "-w", str(self.home / "workspace.yaml")],
        }[kind]
        self._supervised[kind] = self._popen(command, self._log(kind))
        self.started += 1

    def _popen(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            # A session of its own: Ctrl-C is for the driver, which then ends everything itself.
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, kind: Kind) -> Path:
        return self.home / f"{kind.value.replace(' ', '-')}.log"


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
