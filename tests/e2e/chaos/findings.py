"""What a check found, by the harm that it would do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Harm(StrEnum):
    """What is wrong. The first four are the figures that the crash test is about."""

    LOST = "lost"
    DOUBLED = "doubled"
    PARTIAL = "partial files"
    SECRET = "secrets"
    WRONG = "wrong values"
    WENT_BACK = "gone back"
    CALLED = "calls that cost"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong."""

    harm: Harm
    what: str

    def __str__(self) -> str:
        return f"{self.harm}: {self.what}"
