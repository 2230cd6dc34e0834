"""Dagster's real daemon on a temporary home, to be watched and killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.e2e.processes import kill_everything

REPOSITORY = Path(__file__).resolve().parents[2]


class Daemon:
    """Runs `dagster-daemon` with the location of the end-to-end tests; its output goes to a file in the home."""

    def __init__(self, home: Path, base_url: str, api_key: str) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        (home / "workspace.yaml").write_text(
            "load_from:\n"
            "  - python_module:\n"
            "      module_name: tests.e2e.location\n"
            f"      working_directory: {REPOSITORY}\n"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AKOOL_", "DAGSTER_"))}
        self._environment = kept | {
            "DAGSTER_HOME": str(home),
            "AKOOL_API_KEY": api_key,
            "AKOOL_BASE_URL": base_url,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.home / "daemon.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("dagster-daemon"), "run", "-w", self.home / "workspace.yaml"],
                cwd=REPOSITORY,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill_everything(self) -> int:
        """Kill -9 the daemon, its code server and every run; return how many processes that were."""
        killed = kill_everything(self.home)
        if self._process is not None:
            self._process.wait()
        return killed


def wait_for(condition: Callable[[], bool], seconds: float, daemon: Daemon) -> None:
    """Look every fifth of a second until the condition holds; fail with the daemon's last words when it does not."""
    looks = threading.Event()
    for _ in range(int(seconds * 5)):
        if condition():
            return
        looks.wait(0.2)
    raise AssertionError(f"still waiting after {seconds} s; the daemon said:\n{daemon.log.read_text()[-6000:]}")
