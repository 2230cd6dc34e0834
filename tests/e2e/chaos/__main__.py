"""``python -m tests.e2e.chaos``: kill a real deployment again and again, then count what was lost. For the night."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from akool_dagster.emulator import AkoolEmulator
from tests.e2e.chaos.databases import LedgerDatabase, SqliteLedger, postgres_ledger
from tests.e2e.chaos.deployment import Deployment
from tests.e2e.chaos.driver import Chaos
from tests.e2e.chaos.failpoints import FAILPOINTS
from tests.e2e.chaos.outcome import Plan
from tests.e2e.chaos.report import report

LEDGERS: dict[str, Callable[[Path], AbstractContextManager[LedgerDatabase]]] = {
    "sqlite": lambda home: nullcontext(SqliteLedger(home / "akool" / "ledger.sqlite")),
    "postgresql": lambda home: postgres_ledger(home / "backup.pgdump"),
}
API_KEY = "MARKED-SECRET-chaos-4711"


def main() -> int:
    """Return 0 when nothing was lost, doubled, partial or given away, and everything settled."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of choices; the timing is the machine's own")
    parser.add_argument("--kills", type=int, default=200, help="how many at least (default: 200)")
    parser.add_argument("--minutes", type=float, default=50, help="most minutes of chaos (default: 50)")
    parser.add_argument("--ledger", choices=LEDGERS, default="sqlite", help="the database with the ledger")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("it finds the processes to kill in /proc, which only Linux has")
    seed = int(time.time()) if options.seed is None else options.seed
    # Without a handler SIGTERM would end this process alone and leave the deployment running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Path(tempfile.mkdtemp(prefix="akool-chaos-"))
    say(f"seed {seed}, ledger in {options.ledger}, home {home}")
    plan = Plan(
        seed=seed,
        kills=options.kills,
        failpoints=FAILPOINTS,
        days=6,
        first_jobs=60,
        step_seconds=5,
        strike_seconds=(4, 10),
        chaos_seconds=options.minutes * 60,
        settle_seconds=900,
    )
    with AkoolEmulator(api_key=API_KEY, seed=seed) as emulator, LEDGERS[options.ledger](home) as ledger:
        deployment = Deployment(home, emulator.base_url, API_KEY, ledger)
        try:
            outcome = Chaos(plan, deployment, emulator, say).run()
        except BaseException:
            say(f"broken off; the home is {home}")
            raise
        finally:
            deployment.stop()
    say(report(outcome, seed))
    if not outcome.survived:
        say(f"The home is kept for reading: {home}")
        return 1
    shutil.rmtree(home)
    return 0


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
