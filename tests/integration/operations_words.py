"""The words that the tests of checking, restoring, adopting and pruning are written in."""

from __future__ import annotations

from pathlib import Path

from akool_dagster import JobLedger
from akool_dagster.api.models import ResultRow
from akool_dagster.ledger import Answered
from akool_dagster.operations.adopt import adopt, plan_adoption
from akool_dagster.operations.check import CheckReport, check
from akool_dagster.operations.findings import Level
from akool_dagster.operations.prune import PruneReport, prune
from akool_dagster.operations.restore import RestoreReport, restore
from akool_dagster.polling import observation_of
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, DAY, HOUR, NOW, object_id, record, track

OLD_DAY = "2025-08-30"
OLD = NOW - 40 * DAY
A, B, C = (object_id(OLD, number) for number in (1, 2, 3))


def told(job_id: str, status: int, **fields: object) -> Answered:
    raw = {"_id": job_id, "status": status, "create_time": OLD, "update_time": OLD + HOUR, "deduction_credit": 20}
    if status == 3:
        raw["video_url"] = f"https://cdn.example/{job_id}.mp4"
    return observation_of(ResultRow.model_validate(raw | fields), NOW)


def settle(ledger: JobLedger) -> None:
    """Let A be completed with a stored video, B fail, and C complete with its video to be downloaded."""
    track(ledger, A, B, C, labels={"campaign": "spring"})
    record(ledger, told(A, 3), told(B, 4, error_reason="no face"), told(C, 3))
    ledger.store_video(ACCOUNT, A, {"path": f"akool/videos/{OLD_DAY}/{A}.mp4", "bytes": 4})


def place(root: StorageRoot) -> Path:
    return Path(root.uri())


def checked(ledger_url: str, root: StorageRoot, clock: FakeClock, *, files: bool = False) -> CheckReport:
    return check(ledger_url, root, ACCOUNT, clock=clock, files=files)


def problems(report: CheckReport) -> dict[str, str]:
    return {finding.about: finding.what for finding in report.findings if finding.level == Level.PROBLEM}


def notices(report: CheckReport) -> str:
    return " ".join(finding.what for finding in report.findings if finding.level == Level.NOTICE)


def restored(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, *, foreign: bool = False, dry_run: bool = False
) -> RestoreReport:
    return restore(ledger, root, ACCOUNT, clock=clock, foreign=foreign, dry_run=dry_run)


def adopted(ledger: JobLedger, root: StorageRoot) -> None:
    adopt(ledger, root, ACCOUNT, plan_adoption(ledger, root, ACCOUNT))


def pruned(ledger: JobLedger, root: StorageRoot, clock: FakeClock, *, dry_run: bool = False) -> PruneReport:
    return prune(ledger, root, ACCOUNT, older_than_days=30, clock=clock, dry_run=dry_run)
