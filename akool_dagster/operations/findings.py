"""What an operation found, and the report of `ledger check`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from akool_dagster.ledger import Counts


class Level(StrEnum):
    """How much a finding matters."""

    PROBLEM = "problem"  # something does not work, or soon will not
    NOTICE = "notice"  # something to know; nothing is broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found, and what to do next."""

    about: str
    """What the finding concerns, in a word: ``tables``, ``polling``, ``videos`` ..."""
    what: str
    hint: str
    level: Level = Level.PROBLEM


def has_no_problem(findings: Iterable[Finding]) -> bool:
    """Return whether all findings are notices."""
    return all(finding.level != Level.PROBLEM for finding in findings)


def named(ids: Sequence[str], number: int | None = None) -> str:
    """Return the first five ids in words; ``number`` is how many there are in all."""
    rest = (len(ids) if number is None else number) - len(ids[:5])
    return ", ".join(ids[:5]) + (f" and {rest} more" if rest else "")


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """What is known of one account's ledger and storage root."""

    ledger: str
    """The ledger's URL, without its password."""
    storage: str
    account: str
    findings: list[Finding] = field(default_factory=list)
    ledger_id: str | None = None
    schema: str | None = None
    version: int | None = None
    counts: Counts | None = None
    table_files: int | None = None
    """How many tables were read; None: they were not looked at."""
    videos_checked: int | None = None
    """How many stored videos were looked for in the storage root; None: that was not asked."""

    @property
    def ok(self) -> bool:
        """Return whether nothing is wrong."""
        return has_no_problem(self.findings)
