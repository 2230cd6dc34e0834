"""Faults at a constant rate: which kinds, where, and how likely each must be for the sum."""

from __future__ import annotations

import math
from typing import Any

from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator, Endpoint, FaultKind

CALL_PROBABILITY = 0.3
"""Of every API call and every request to the CDN."""
ROW_PROBABILITY = 0.05
"""Of every row of an answer. Lower: at 0.3 some job would rightly be given up, after five looks without its URL."""
HOLD_SECONDS = 1.0
"""How long what lasts (a late answer, none, a drip) does: the real time-outs would leave no time for anything else."""


def passes(kind: FaultKind) -> bool:
    """Return whether asking again helps."""
    return kind.passes_by_itself


def switch_on(emulator: AkoolEmulator) -> None:
    """Switch on every fault that passes, so that together they happen as often as the probabilities say."""
    kinds = [kind for kind in FAULT_KINDS.values() if passes(kind)]
    of_rows = [kind for kind in kinds if kind.is_of_one_job]
    for endpoint in (Endpoint.RESULTS, Endpoint.CDN):
        of_calls = [kind for kind in kinds if not kind.is_of_one_job and endpoint in kind.allowed]
        for kind in of_calls:
            probability = _share(CALL_PROBABILITY, len(of_calls))
            emulator.faults.add(kind.name, endpoint=endpoint, probability=probability, **_options(kind))
    for kind in of_rows:
        emulator.faults.add(kind.name, probability=_share(ROW_PROBABILITY, len(of_rows)), **_options(kind))


def _options(kind: FaultKind) -> dict[str, Any]:
    return {"seconds": HOLD_SECONDS} if "seconds" in kind.options else {}


def _share(probability: float, kinds: int) -> float:
    """Return how likely each of several independent faults must be for one of them to be that likely."""
    return 1.0 - math.pow(1 - probability, 1 / kinds)
