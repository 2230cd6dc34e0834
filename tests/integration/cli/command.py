"""The command ``akool-dagster`` in a Dagster home of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from akool_dagster.cli import main
from akool_dagster.ledger import Job, JobLedger, Missed, Observation, Polling, TrackRequest, Unreadable
from akool_dagster.ledger.transitions import Limits
from tests.integration.operations.helpers import answered
from tests.scripted_api import job_id

NO_SETTINGS: dict[str, str | None] = dict.fromkeys(
    ["AKOOL_API_KEY", "AKOOL_BASE_URL", "AKOOL_STORAGE", "AKOOL_LEDGER_URL", "DAGSTER_HOME", "COLUMNS"]
)


class Command:
    """Runs ``akool-dagster`` in a Dagster home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"sqlite:///{home / 'akool' / 'ledger.sqlite'}"
        self.environment: dict[str, str | None] = {**NO_SETTINGS, "DAGSTER_HOME": str(home)}

    def __call__(self, *arguments: str, stdin: str | bytes | None = None, charset: str = "utf-8") -> Result:
        return CliRunner(charset, env=self.environment).invoke(main, arguments, stdin, prog_name="akool-dagster")

    def tracked(self, account: str = "akool") -> dict[str, Job]:
        with JobLedger.open(self.url) as ledger:
            return {job.job_id: job for job in ledger.account(account).jobs()}

    def record(self, *seen: Observation, limits: Limits | None = None) -> None:
        with JobLedger.create(self.url, limits=limits) as ledger:
            account = ledger.account("akool")
            account.track([TrackRequest(job_id=one.job_id) for one in seen])
            account.polling.record(seen, Polling(next_poll_delay_ms=lambda _age: 5000, ids_per_request=50))

    def answer(self, number: int, status: int, **fields: object) -> None:
        self.record(answered(job_id(number), status, **fields))  # type: ignore[arg-type]

    def lose(self, *numbers: int) -> None:
        """Let jobs go missing."""
        self.record(*(Missed(job_id=job_id(n)) for n in numbers), limits=Limits(misses=1, miss_grace_ms=0))

    def have_one_of_each_kind(self) -> None:
        self.answer(1, 1)
        self.answer(2, 2)
        self.answer(3, 3)
        self.answer(4, 4, error_reason="[/bold] The input [image] was refused :smile:")
        self.record(Unreadable(job_id=job_id(5), error="status is not a 64-bit integer"))

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        result = self("jobs", "--json", *arguments)
        assert result.exit_code == 0, result.output
        parsed: list[dict[str, Any]] = json.loads(result.stdout)
        return parsed
