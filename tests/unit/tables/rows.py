"""Rows of tables as several ledgers know them, and a plain merge that the real one must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from akool_dagster.ledger import JobState, VideoState
from akool_dagster.tables import TableSpec

Row = dict[str, Any]
Side = dict[str, Row]
"""What one ledger or file knows, by id."""

IDS = "abcdef"

STATES: Mapping[str, Sequence[str | None]] = {
    "statuses": [state for state in JobState if state != JobState.FORGOTTEN],
    "videos": list(VideoState),
    "results": [None],
}
TEXT = {"statuses": "failure_reason", "videos": "error", "results": "labels"}
"""A column that tells copies of a row apart."""


_VERSIONS = st.integers(0, 5)


def row_of(spec: TableSpec, identifier: str | None, *, version: int | None, state: str | None = None) -> Row:
    column = spec.progress[0] if spec.progress[1] else TEXT[spec.name]
    return {"_id": identifier, "version": version, column: state, TEXT[spec.name]: f"{version} {state}"}


def sides(spec: TableSpec, versions: st.SearchStrategy[int] = _VERSIONS) -> st.SearchStrategy[Side]:
    """Return a strategy for what a ledger knows of the jobs `IDS`; copies of one version may differ."""
    copies = st.tuples(versions, st.sampled_from(STATES[spec.name]), st.integers(0, 3))
    return st.dictionaries(st.sampled_from(IDS), copies, min_size=2).map(
        lambda known: {
            one: row_of(spec, one, version=version, state=state) | {TEXT[spec.name]: f"{version} {state} {copy}"}
            for one, (version, state, copy) in known.items()
        }
    )


def rank(spec: TableSpec, row: Row) -> tuple[int, int]:
    ranks: dict[str, dict[str, int]] = {
        "statuses": {JobState.COMPLETED: 1, JobState.FAILED: 1},
        "videos": {VideoState.STORED: 2, VideoState.UNVERIFIED: 1},
    }
    return ranks[spec.name].get(row[spec.progress[0]], 0) if spec.progress[1] else 0, row["version"] or 0


def merged(spec: TableSpec, ledger: Side, file: Side) -> Side:
    """Return the union of both, row by row."""
    return ledger | {
        one: row for one, row in file.items() if one not in ledger or rank(spec, row) > rank(spec, ledger[one])
    }
