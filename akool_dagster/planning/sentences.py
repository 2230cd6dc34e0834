"""What a tick did and what it waits for, in words: numbers first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from akool_dagster.ledger.records import Counts
from akool_dagster.planning.decisions import Decision, PartitionState
from akool_dagster.polling.poll_pass import PollReport


def poll_sentence(report: PollReport) -> str:
    """Return what a poll pass did."""
    recorded = report.recorded
    found = {
        "completed": recorded.completed,
        "failed": recorded.failed,
        "missing": recorded.missing,
        "abandoned": recorded.abandoned,
        "unreadable": report.unreadable,
    }
    changed = ", ".join(f"{number} {what}" for what, number in found.items() if number)
    sentence = f"polled {_number(report.polled, 'id')} in {_number(report.calls, 'call')}"
    if report.polled:
        sentence += f": {changed or 'none ended'}"
    if report.polled > 1 and report.not_returned == report.polled:
        sentence += "; Akool returned none of them: does AKOOL_API_KEY belong to the account that made them?"
    return sentence if report.stopped is None else f"{sentence}; stopped early: {report.stopped}"


def counts_sentence(counts: Counts) -> str:
    """Return what is in flight."""
    statuses = ", ".join(f"{number} {label}" for label, number in sorted(counts.pending_statuses.items()))
    sentence = f"{_number(counts.pending, 'job')} pending" + (f" ({statuses})" if statuses else "")
    if counts.oldest_pending_ms is not None:
        sentence += f", the oldest for {counts.oldest_pending_ms / 60_000:.0f} min"
    if counts.overdue:
        sentence += f", {counts.overdue} overdue"
    if counts.before_first_partition:
        sentence += f", {counts.before_first_partition} in no partition"
    if counts.after_current_partition:
        sentence += f", {counts.after_current_partition} in partitions to come (tracked under a clock that went ahead)"
    videos = counts.videos.get("pending", 0)
    if videos:
        sentence += f", {_number(videos, 'video')} to download"
        if counts.videos_waiting:
            sentence += f" ({counts.videos_waiting} not yet to be tried again)"
    return sentence


def landings_sentence(decisions: Sequence[Decision], requested: Collection[PartitionState]) -> str:
    """Return how many landings are asked for, and why the others wait."""
    if not decisions:
        return "nothing to land"
    chosen = frozenset(requested)
    waiting = [one for one in decisions if one.state not in chosen]
    sentence = f"{_number(len(chosen), 'landing')} requested"
    if waiting:
        first = waiting[0]
        why = first.reason if not first.request else "more than one tick's requests"
        verb = "waits" if len(waiting) == 1 else "wait"
        sentence += f", {len(waiting)} {verb} (such as {first.state.kind} of {first.state.key}: {why})"
    return sentence


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
