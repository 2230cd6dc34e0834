"""What a crash test says at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.e2e.chaos.findings import Harm
from tests.e2e.chaos.outcome import Outcome

FIGURES = (Harm.LOST, Harm.DOUBLED, Harm.PARTIAL, Harm.SECRET)
SHOWN_FINDINGS = 40


def report(outcome: Outcome, seed: int) -> str:
    """Return the report; its last lines are the figures."""
    found = Counter(finding.harm for finding in outcome.findings)
    figures = ", ".join(f"{found[harm]} {harm}" for harm in FIGURES)
    others = ", ".join(f"{found[harm]} {harm}" for harm in Harm if harm not in FIGURES)
    lines = [
        f"Kills: {outcome.kills.total()} ({_listed(outcome.kills)}), {outcome.processes} processes",
        f"Fail-points: {len(outcome.failpoints)} reached ({_listed(outcome.failpoints)})",
        f"Faults: {outcome.faults.total()} ({_listed(outcome.faults)}) in {outcome.spoilt} of "
        f"{outcome.requests.total()} requests ({_listed(outcome.requests)})",
        f"Runs: {_listed(outcome.runs)}",
        f"{outcome.jobs} jobs, {outcome.reopened} reopened; {outcome.files_watched} versions of files watched; "
        f"chaos {outcome.chaos_seconds:.0f} s, settled in {outcome.settle_seconds:.0f} s; seed {seed}",
    ]
    lines += [f"  {finding}" for finding in outcome.findings[:SHOWN_FINDINGS]]
    if len(outcome.findings) > SHOWN_FINDINGS:
        lines.append(f"  ... and {len(outcome.findings) - SHOWN_FINDINGS} more")
    if outcome.missed_failpoints:
        lines.append(f"Fail-points that nobody reached: {', '.join(outcome.missed_failpoints)}")
    if outcome.unsettled:
        lines.append(f"NOT SETTLED: {outcome.unsettled}")
    if outcome.unneeded_runs:
        lines.append(f"{outcome.unneeded_runs} runs were asked for though everything had landed")
    lines.append(f"Also: {others}, {outcome.unneeded_runs} unneeded runs")
    lines.append(f"Longest time from a restart to the next request of a landing: {outcome.longest_wait_seconds:.0f} s")
    lines.append(
        f"After {outcome.kills.total()} kills and {outcome.faults.total()} faults: {figures}"
        + ("." if outcome.survived else "  --  FAILED")
    )
    return "\n".join(lines)


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what or 'other'}" for what, number in sorted(numbers.items())) or "none"
