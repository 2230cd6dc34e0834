"""What an operation found, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    PROBLEM = "problem"  # something does not work, or soon will not
    NOTICE = "notice"  # something to know; nothing is broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found, and what to do next."""

    about: str
    """What it concerns, in a word: ``tables``, ``polling``, ``videos`` ..."""
    what: str
    hint: str
    level: Level = Level.PROBLEM


def named(ids: Sequence[str], number: int | None = None) -> str:
    """Return the first few ids in words; ``number`` is how many there are in all."""
    rest = (len(ids) if number is None else number) - len(ids[:5])
    return ", ".join(ids[:5]) + (f" and {rest} more" if rest else "")
