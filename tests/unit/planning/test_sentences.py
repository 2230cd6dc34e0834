from __future__ import annotations

import json
from typing import Any

import pytest

from akool_dagster.ledger.records import Counts, LandingKind, RecordReport
from akool_dagster.planning.decisions import Decision, PartitionState
from akool_dagster.planning.observation import next_observation, observation_metadata
from akool_dagster.planning.sentences import counts_sentence, landings_sentence, poll_sentence
from akool_dagster.polling.poll_pass import PollReport

NOW = 1_760_000_000_000
NOTHING: dict[str, Any] = {
    "states": {},
    "pending_statuses": {},
    "videos": {},
    "oldest_pending_ms": None,
    "due": 0,
    "overdue": 0,
    "before_first_partition": 0,
    "after_current_partition": 0,
    "videos_waiting": 0,
}


def counts(**changed: Any) -> Counts:
    return Counts(**NOTHING | changed)


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (PollReport(), "0 ids polled"),
        (PollReport(polled=1, calls=1), "1 id polled in 1 call: none ended"),
        (
            PollReport(polled=9, calls=2, recorded=RecordReport(completed=3, abandoned=1), unreadable=2, stopped="why"),
            "9 ids polled in 2 calls: 3 completed, 1 abandoned, 2 unreadable; stopped early: why",
        ),
        (
            PollReport(polled=2, calls=1, not_returned=2),
            "2 ids polled in 1 call: none ended; Akool returned none of them: does AKOOL_API_KEY belong to the account "
            "that made them?",
        ),
    ],
)
def test_a_tick_says_what_it_polled(report: PollReport, sentence: str) -> None:
    assert poll_sentence(report) == sentence


def test_a_tick_says_what_is_in_flight() -> None:
    assert counts_sentence(counts()) == "0 jobs pending"
    much = counts(
        states={"pending": 3},
        pending_statuses={"queueing": 1, "processing": 2},
        oldest_pending_ms=7_200_000,
        overdue=1,
        before_first_partition=4,
        videos={"pending": 1, "stored": 5},
        videos_waiting=1,
    )
    assert counts_sentence(much) == (
        "3 jobs pending (2 processing, 1 queueing), oldest 120 min, 1 video to download (1 of them later), "
        "1 overdue, 4 in no partition"
    )


def test_a_tick_says_which_landings_it_asks_for_and_why_the_others_wait() -> None:
    states = [PartitionState(kind=LandingKind.TABLES, key=f"2025-10-0{day}", version=1) for day in (1, 2, 3)]
    asked = [Decision(state=state) for state in states]
    waiting = Decision(state=states[2], reason_to_wait="run r is queued")
    assert landings_sentence([], []) == "nothing to land"
    assert landings_sentence(asked[:1], states[:1]) == "1 landing requested"
    assert landings_sentence([asked[0], waiting], states[:1]) == (
        "1 landing requested, 1 waiting (tables of 2025-10-03: run r is queued)"
    )
    assert landings_sentence(asked, []) == (
        "0 landings requested, 3 waiting (tables of 2025-10-01: this tick has asked for enough)"
    )


# Observations


def test_the_counts_are_observed_when_they_change_and_their_age_every_ten_minutes() -> None:
    pending, done = counts(states={"pending": 1}), counts(states={"completed": 1})
    cursor = next_observation(None, pending, NOW)
    assert cursor is not None
    assert next_observation(cursor, pending, NOW + 599_999) is None
    assert next_observation(cursor, pending, NOW + 600_000) is not None
    assert next_observation(cursor, pending, NOW - 1) is not None  # the clock was set back
    assert next_observation(cursor, done, NOW + 1) is not None
    cursor = next_observation(None, done, NOW)
    assert next_observation(cursor, done, NOW + 10**9) is None  # nothing is in flight


@pytest.mark.parametrize("cursor", ["", "[]", "nonsense", '{"observed_at": null}', json.dumps({"counts": {}})])
@pytest.mark.parametrize("states", [{"pending": 1}, {"completed": 1}])
def test_a_cursor_that_cannot_be_read_counts_as_none(cursor: str, states: dict[str, int]) -> None:
    assert next_observation(cursor, counts(states=states), NOW) is not None


def test_an_observation_has_a_number_for_every_state() -> None:
    metadata = observation_metadata(counts(states={"pending": 2}, oldest_pending_ms=1500, videos={"unverified": 3}))
    expected: dict[str, float] = {"jobs_pending": 2, "jobs_missing": 0, "videos_pending": 0, "videos_unverified": 3}
    expected["oldest_pending_seconds"] = 1.5
    assert metadata | {f"akool/{name}": number for name, number in expected.items()} == metadata
