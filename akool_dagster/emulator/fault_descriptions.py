"""Faults as text and as JSON: what a command line and the admin endpoint say and show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from akool_dagster.emulator.fault_table import FAULT_KINDS
from akool_dagster.emulator.faults import Fault, FaultScript, FaultSource, FaultSwitch, RandomFaults, Step

# A comma inside a value, as in an HTTP date, is none of those that separate.
_SEPARATOR = re.compile(r",(?=[a-z_]+=)")

_NUMBERS = {"times": int, "probability": float, "random": float, "hold_seconds": float}
_FORMS: Mapping[str, frozenset[str]] = {
    "script": frozenset({"script", "endpoint", "job_id"}),
    "random": frozenset({"random", "names", "endpoint", "hold_seconds"}),
}


def parse_flag(text: str) -> dict[str, object]:
    """Return ``NAME[,option=value...]`` as a description. Raises ``ValueError`` for any other form."""
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

    Numbers may be texts. Raises ``ValueError`` for whatever `FaultSwitch` refuses, and for unknown parameters.
    """
    given = {name: _typed(name, value) for name, value in description.items() if value is not None}
    for name in ("name", "endpoint", "job_id"):
        if not isinstance(given.get(name, ""), str):
            raise ValueError(f"{name!r} is a text, not {given[name]!r}.")
    form = next((form for form in _FORMS if form in given), None)
    if form is None:
        if "name" not in given:
            raise ValueError("Say which fault with 'name', or give a 'script', or 'random' with a probability.")
        return faults.add(given.pop("name"), **given)
    if unknown := given.keys() - _FORMS[form]:
        raise ValueError(f"Beside {form!r} there is no {sorted(unknown)[0]!r}; {_listed(_FORMS[form])} are known.")
    if form == "script":
        return faults.script(_steps(given.pop("script")), **given)
    return faults.add_random(given.pop("random"), **given)


def _typed(name: str, value: object) -> Any:
    if name == "names" and (not isinstance(value, list) or not all(isinstance(one, str) for one in value)):
        raise ValueError(f"'names' is a list of faults' names, not {value!r}.")
    if name not in _NUMBERS:
        return value
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = _NUMBERS[name](value)
    except ValueError:
        raise ValueError(f"{name!r} is a number, not {value!r}.") from None
    if not isinstance(value, str) and number != value:
        raise ValueError(f"{name!r} is a whole number, not {value!r}.")
    return number


def _steps(steps: object) -> Sequence[Step]:
    if not isinstance(steps, list) or not all(step is None or isinstance(step, str | dict) for step in steps):
        raise ValueError("A script is a list; each step is null, a fault's name, or an object with 'name' and options.")
    return steps


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def describe(source: FaultSource, times_left: int | None) -> dict[str, object]:
    """Return what is on, as JSON values, so that it can be recognised and removed by its ``id``."""
    shown: dict[str, object] = {"id": source.number, "times_left": times_left}
    match source:
        case Fault():
            endpoints = sorted(source.endpoints)
            return shown | _named(source) | {"endpoints": endpoints, "probability": source.probability}
        case FaultScript():
            steps = [None if step is None else _named(step) for step in source.steps]
            return shown | {"script": steps, "endpoint": source.endpoint, "job_id": source.job_id}
        case RandomFaults():
            names = [kind.name for kind in source.kinds]
            places = {"endpoint": source.endpoint, "hold_seconds": source.hold_seconds}
            return shown | {"random": source.probability, "names": names} | places


def _named(fault: Fault) -> dict[str, object]:
    return {"name": fault.kind.name, "job_id": fault.job_id, "options": dict(fault.options)}


def kinds_table() -> str:
    """Return all faults with their places, options and meaning, for people."""
    lines = []
    for kind in FAULT_KINDS.values():
        options = "".join(f",{name}={'' if value is None else value}" for name, value in kind.options.items())
        lasting = "" if kind.passes_by_itself else " Does not pass by itself."
        lines.append(f"{kind.name}{options}{',job_id=' if kind.needs_job else ''}")
        lines.append(f"    {kind.summary[0].upper()}{kind.summary[1:]}.{lasting}")
        lines.append(f"    At {_places(kind.default)}{_other_places(kind.allowed - kind.default)}.")
    return "\n".join(lines)


def _places(endpoints: frozenset[Any]) -> str:
    return ", ".join(sorted(endpoints))


def _other_places(endpoints: frozenset[Any]) -> str:
    return f"; with endpoint= also at {_places(endpoints)}" if endpoints else ""
