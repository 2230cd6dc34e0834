"""The message of a tick: what it polled, what is in flight, which landings it asks for. Numbers come first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from akool_dagster.ledger.records import Counts, VideoState
from akool_dagster.planning.decisions import Decision, PartitionState
from akool_dagster.polling.poll_pass import PollReport


def poll_sentence(report: PollReport) -> str:
    """Return what a poll pass did."""
    recorded = report.recorded
    found = _listed(
        {
            "completed": recorded.completed,
            "failed": recorded.failed,
            "missing": recorded.missing,
            "abandoned": recorded.abandoned,
            "unreadable": report.unreadable,
        }
    )
    sentence = f"{_number(report.polled, 'id')} polled"
    if report.polled:
        sentence += f" in {_number(report.calls, 'call')}: {found or 'none ended'}"
    if report.polled > 1 and report.not_returned == report.polled:
        sentence += "; Akool returned none of them: does AKOOL_API_KEY belong to the account that made them?"
    return sentence if report.stopped is None else f"{sentence}; stopped early: {report.stopped}"


def counts_sentence(counts: Counts) -> str:
    """Return what is in flight."""
    parts = [f"{_number(counts.pending, 'job')} pending"]
    if counts.pending_statuses:
        parts[0] += f" ({_listed(dict(sorted(counts.pending_statuses.items())))})"
    if minutes := (counts.oldest_pending_ms or 0) // 60_000:
        parts.append(f"oldest {minutes} min")
    if videos := counts.videos.get(VideoState.PENDING, 0):
        later = f" ({counts.videos_waiting} of them later)" if counts.videos_waiting else ""
        parts.append(f"{_number(videos, 'video')} to download{later}")
    rest = {
        "overdue": counts.overdue,
        "in no partition": counts.before_first_partition,
        "in partitions to come": counts.after_current_partition,
    }
    return ", ".join(filter(None, [*parts, _listed(rest)]))


def landings_sentence(decisions: Sequence[Decision], requested: Collection[PartitionState]) -> str:
    """Return how many landings are asked for, how many wait, and why the first of those does."""
    if not decisions:
        return "nothing to land"
    chosen = frozenset(requested)
    waiting = [one for one in decisions if one.state not in chosen]
    sentence = f"{_number(len(chosen), 'landing')} requested"
    if not waiting:
        return sentence
    first = waiting[0]
    why = first.reason_to_wait or "this tick has asked for enough"
    return f"{sentence}, {len(waiting)} waiting ({first.state.kind} of {first.state.key}: {why})"


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in numbers.items() if number)


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
