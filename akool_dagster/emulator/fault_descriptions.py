"""Faults as text and as JSON: what a command line and the admin endpoint say and show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from akool_dagster.emulator.fault_kinds import FAULT_KINDS
from akool_dagster.emulator.faults import Fault, FaultScript, FaultSource, FaultSwitch, RandomFaults

# A comma inside a value, as in an HTTP date, is none of those that separate.
_SEPARATOR = re.compile(r",(?=[a-z_]+=)")


def parse_flag(text: str) -> dict[str, object]:
    """Return ``NAME[,option=value...]`` as a description. Raises ``ValueError`` for an option given twice."""
    name, *pairs = _SEPARATOR.split(text)
    description: dict[str, object] = {"name": name.strip()}
    for pair in pairs:
        option, _, value = pair.partition("=")
        if option in description:
            raise ValueError(f"{text!r} has {option!r} twice.")
        description[option] = value
    return description


def switch_on(faults: FaultSwitch, description: Mapping[str, Any]) -> FaultSource:
    """Switch on what a description says: ``name`` with its options, a ``script``, or ``random``.

    Numbers may be texts. Raises ``ValueError`` with a sentence for whatever `FaultSwitch` refuses.
    """
    given = {name: value for name, value in description.items() if value is not None}
    for form, action in (("script", faults.script), ("random", faults.add_random), ("name", faults.add)):
        if form in given:
            try:
                return action(given.pop(form), **given)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                place = form if problem["loc"][0] == 1 else ".".join(map(str, problem["loc"]))
                raise ValueError(f"{place!r} is not understood: {problem['msg']}.") from None
    raise ValueError("Say which fault with 'name', or give a 'script', or 'random' with a probability.")


def describe(source: FaultSource, times_left: int | None) -> dict[str, object]:
    """Return what is on, as JSON values, so that it can be recognised and removed by its ``id``."""
    shown: dict[str, object] = {
        "id": source.number,
        "times_left": times_left,
        "endpoints": sorted(source.endpoints),
        "job_id": source.job_id,
        "probability": source.probability,
    }
    match source:
        case Fault():
            shown |= _named(source)
        case FaultScript():
            shown["script"] = [None if step is None else _named(step) for step in source.steps]
        case RandomFaults():
            shown |= {"names": [kind.name for kind in source.kinds], "hold_seconds": source.hold_seconds}
    return shown


def _named(fault: Fault) -> dict[str, object]:
    return {"name": fault.kind.name, "options": dict(fault.options)}


def kinds_table() -> str:
    """Return all faults with their places, options and meaning, for people."""
    lines = []
    for kind in FAULT_KINDS.values():
        options = "".join(f",{name}={'' if value is None else value}" for name, value in kind.options.items())
        lasting = "" if kind.passes_by_itself else " Does not pass by itself."
        elsewhere = f"; with endpoint= also at {', '.join(sorted(kind.also))}" if kind.also else ""
        lines.append(f"{kind.name}{options}{',job_id=' if kind.needs_job else ''}")
        lines.append(f"    {kind.summary[0].upper()}{kind.summary[1:]}.{lasting}")
        lines.append(f"    At {', '.join(sorted(kind.default))}{elsewhere}.")
    return "\n".join(lines)
